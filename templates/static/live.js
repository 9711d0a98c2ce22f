"use strict";
/* What pages gain by JavaScript; without it everything is there, one reload later. */

// Parts that the server keeps up to date, while somebody looks: a browser has few connections to one server.
function keepLive(place) {
  let stream = null;
  const close = () => { stream?.close(); stream = null; };
  const open = () => {
    if (stream || !place.isConnected) return;
    let shown;
    stream = new EventSource(place.dataset.live);
    stream.onmessage = ({data}) => {
      if (!place.isConnected) return close();
      if (data !== shown) place.innerHTML = shown = data;
      tellTimes(place);
      tellTitle();
    };
    stream.addEventListener("end", close);
  };
  document.addEventListener("visibilitychange", () => document.hidden ? close() : open());
  addEventListener("pagehide", close);
  addEventListener("pageshow", event => event.persisted && open());
  if (!document.hidden) open();
}
document.querySelectorAll("[data-live]").forEach(keepLive);

// Statuses that came onto the timeline since the page was made. The stream goes on where the page, or its last event, was.
function keepNews(place) {
  const news = new Set();
  let stream = null, last = null;
  const show = () => {
    place.innerHTML = news.size
      ? `<a class="button" href="/" data-swap="latest cost" data-new="${news.size}">${news.size} new ${news.size > 1 ? "statuses" : "status"}</a>`
      : "";
    tellTitle();
  };
  const close = () => { stream?.close(); stream = null; };
  const open = () => {
    if (stream || !place.isConnected) return;
    const address = new URL(place.dataset.news, location);
    if (last) address.searchParams.set("after", last);
    stream = new EventSource(address);
    const on = (name, heard) => stream.addEventListener(name, ({data, lastEventId}) => {
      last = lastEventId;
      if (!place.isConnected) return close();
      heard(JSON.parse(data));
    });
    on("status", ({id}) => {
      if (document.getElementById(`s${id}`)) return;
      news.add(id);
      show();
    });
    on("status_gone", ({id}) => news.delete(id) && show());
    on("reset", () => {
      place.innerHTML = `<a class="button" href="/" data-swap="latest cost">Show what is new</a>`;
    });
  };
  document.addEventListener("visibilitychange", () => document.hidden ? close() : open());
  addEventListener("pagehide", close);
  addEventListener("pageshow", event => event.persisted && open());
  if (!document.hidden) open();
}
document.querySelectorAll("[data-news]").forEach(keepNews);

// The title says how many statuses are new, for whoever looks at another window.
const title = document.title;
function tellTitle() {
  const news = document.querySelector("[data-new]");
  document.title = news ? `(${news.dataset.new}) ${title}` : title;
}

// Links that replace parts of the page, or add to a list, instead of loading all of it.
async function load(link) {
  const answer = await fetch(link.href);
  if (!answer.ok || answer.redirected) throw new Error(answer.statusText);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

async function swap(link) {
  const ids = link.dataset.swap.split(" ");
  for (const id of ids) document.getElementById(id).setAttribute("aria-busy", "true");
  const page = await load(link);
  const parts = ids.map(id => page.getElementById(id));
  ids.forEach((id, at) => document.getElementById(id).replaceWith(parts[at]));
  for (const part of parts) {
    part.querySelectorAll("[data-live]").forEach(keepLive);
    part.querySelectorAll("[data-news]").forEach(keepNews);
  }
  tellTitle();
  parts[0].focus({preventScroll: true});
  if (parts[0].getBoundingClientRect().top < 0) parts[0].scrollIntoView();
}

async function more(link) {
  const page = await load(link);
  const added = [...page.getElementById("list")?.children ?? []];
  document.getElementById("list").append(...added);
  const next = page.querySelector("a[data-more]");
  if (next) link.href = next.getAttribute("href");
  else link.closest("nav").remove();
  added[0]?.querySelector("a").focus({preventScroll: true});
}

document.addEventListener("click", event => {
  const link = event.target.closest("a[data-swap], a[data-more]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  (link.dataset.swap ? swap : more)(link).catch(() => location.assign(link.href));
});

// A draft outlives its page, whatever happens to that, and stays in this tab until it is posted. With it is kept what
// makes posting it twice one status.
for (const form of document.querySelectorAll("form[data-draft]")) {
  const key = `draft ${form.dataset.draft}`;
  const {text, audience, once} = form.elements, fold = form.previousElementSibling;
  const keep = () => text.value.trim()
    ? sessionStorage.setItem(key, JSON.stringify([text.value, audience.value, once.value]))
    : sessionStorage.removeItem(key);
  if (form.dataset.said === "posted") sessionStorage.removeItem(key);
  const kept = sessionStorage.getItem(key);
  if (kept && !text.value) [text.value, audience.value, once.value] = JSON.parse(kept);
  if (text.value) fold.open = true;
  keep();
  form.addEventListener("input", keep);
  fold.addEventListener("click", () => setTimeout(() => fold.open && text.focus()));
}
document.querySelector("form[action='/sign-out']")?.addEventListener("submit", () => {
  sessionStorage.clear();
  indexedDB.deleteDatabase("feedlab");
});

// What is open closes by Escape, and by a click beside it.
function closeMenus(unless) {
  for (const menu of document.querySelectorAll(".menu[open]")) {
    if (menu.contains(unless)) continue;
    if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
    menu.open = false;
  }
}
document.addEventListener("click", event => closeMenus(event.target));
document.addEventListener("keydown", event => {
  if (event.key !== "Escape") return;
  closeMenus();
  document.querySelector(".said")?.remove();
});

// On a phone the tabs are wider than the screen: the current one is in sight.
const tab = document.querySelector(".top nav [aria-current]");
if (tab) {
  const tabs = tab.parentElement;
  tabs.scrollLeft = tab.offsetLeft - tabs.offsetLeft - (tabs.clientWidth - tab.offsetWidth) / 2;
}

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
