"use strict";
/* What pages gain by JavaScript; without it everything is there, one reload later. */

// Parts that the server keeps up to date, while somebody looks: a browser has few connections to one server.
for (const place of document.querySelectorAll("[data-live]")) {
  let stream = null;
  const close = () => { stream?.close(); stream = null; };
  const open = () => {
    if (stream) return;
    let shown;
    stream = new EventSource(place.dataset.live);
    stream.onmessage = ({data}) => {
      if (data !== shown) place.innerHTML = shown = data;
      tellTimes(place);
    };
    stream.addEventListener("end", close);
  };
  document.addEventListener("visibilitychange", () => document.hidden ? close() : open());
  addEventListener("pagehide", close);
  addEventListener("pageshow", event => event.persisted && open());
  if (!document.hidden) open();
}

// A link that replaces one part of the page instead of all of it.
document.addEventListener("click", async event => {
  const link = event.target.closest("a[data-swap]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  const place = document.getElementById(link.dataset.swap);
  place.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(link.href);
    const part = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById(link.dataset.swap);
    place.replaceWith(part);
    part.focus({preventScroll: true});
  } catch {
    location.assign(link.href);
  }
});

// How many characters are left, counted as the server does: code points, without the spaces around them.
for (const text of document.querySelectorAll("[data-count]")) {
  const hint = document.getElementById(text.getAttribute("aria-describedby").split(" ").pop());
  const before = hint.innerHTML;
  const count = () => {
    const left = text.dataset.count - [...text.value.trim()].length;
    hint.classList.toggle("over", left < 0);
    if (!text.value) hint.innerHTML = before;
    else hint.textContent = left < 0 ? `${-left} too many` : `${left} left`;
  };
  text.addEventListener("input", count);
  count();
}

// Relative times go on.
function tellTimes(place) {
  for (const time of place.querySelectorAll("time[data-ago]")) {
    const minutes = Math.floor((Date.now() - Date.parse(time.dateTime)) / 60_000);
    if (minutes >= 7 * 24 * 60) continue;
    time.textContent = minutes < 1 ? "now" : minutes < 60 ? `${minutes} min`
      : minutes < 24 * 60 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 24 / 60)} d`;
  }
}
setInterval(() => tellTimes(document), 30_000);
