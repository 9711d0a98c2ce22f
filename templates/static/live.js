"use strict";
/* What pages gain by JavaScript; without it everything is there, one reload later. */

// What this tab remembers until it is closed, as far as the browser lets it: its memory may be full, or forbidden.
function recall(key) {
  try {
    return JSON.parse(sessionStorage.getItem(key));
  } catch {
    return null;
  }
}

function remember(key, value) {
  try {
    if (value === null) sessionStorage.removeItem(key);
    else sessionStorage.setItem(key, JSON.stringify(value));
  } catch {}  // it lasts as long as its page
}

// What tabs tell each other; null where the browser, or whoever uses it, does not let them.
function channel(name) {
  try {
    return new BroadcastChannel(name);
  } catch {
    return null;
  }
}

// Makes what is shown like what is now, and lets stand whatever is the same: the keyboard is where it was, and what has been
// scrolled or marked stays so.
function renew(shown, now) {
  const were = [...shown.childNodes], are = [...now.childNodes];
  if (!shown.cloneNode().isEqualNode(now.cloneNode())) shown.replaceWith(now);
  else if (were.length !== are.length) shown.replaceChildren(...are);
  else were.forEach((one, at) => renew(one, are[at]));
}

const AGAIN_MS = 5_000, LONGEST_MS = 120_000, HIDDEN_MS = 300_000;

// Parts that the server keeps up to date, while somebody looks: a browser has few connections to one server.
function keepLive(place) {
  let stream = null, again = 0, waitMs = AGAIN_MS;
  const close = () => { clearTimeout(again); stream?.close(); stream = null; };
  const open = () => {
    if (stream || !place.isConnected) return;
    stream = new EventSource(place.dataset.live);
    stream.onmessage = ({data}) => {
      if (!place.isConnected) return close();
      waitMs = AGAIN_MS;
      const now = place.cloneNode();
      now.innerHTML = data;
      renew(place, now);
      tellTimes(place);
      tellTitle();
    };
    stream.addEventListener("end", close);
    stream.onerror = ({target}) => {  // the browser tries again by itself, unless an answer said no
      if (target !== stream || target.readyState !== EventSource.CLOSED) return;
      close();
      again = setTimeout(open, waitMs);
      waitMs = Math.min(2 * waitMs, LONGEST_MS);
    };
  };
  document.addEventListener("visibilitychange", () => document.hidden ? close() : open());
  addEventListener("pagehide", close);
  addEventListener("pageshow", event => event.persisted && open());
  if (!document.hidden) open();
}
document.querySelectorAll("[data-live]").forEach(keepLive);

// The page's one stream of events: what it tells is heard as `live:NAME` on the document, by whatever script. It goes on
// where the page, or its last event, was. Of the tabs that nobody looks at, only the last that somebody looked at has one.
const EVENTS = ["ready", "status", "status_gone", "likes", "person", "notification", "notification_gone", "unread",
  "message", "conversation", "presence", "reset"];
const others = channel("feedlab hidden");
let stream = null, last = null, again = 0, waitMs = AGAIN_MS;

function closeStream() {
  clearTimeout(again);
  stream?.close();
  stream = null;
}

function openStream() {
  clearTimeout(again);
  const {stream: path, me} = document.body.dataset;
  if (stream || !path) return;
  const address = new URL(path, location);
  address.searchParams.set("me", me);  // whoever signs in beside this page hears nothing on it
  last ??= document.querySelector("[data-news]")?.dataset.news;
  if (last) address.searchParams.set("after", last);
  stream = new EventSource(address);
  for (const name of EVENTS) stream.addEventListener(name, ({data, lastEventId}) => {
    last = lastEventId;
    waitMs = AGAIN_MS;
    document.dispatchEvent(new CustomEvent(`live:${name}`, {detail: JSON.parse(data)}));
  });
  stream.onerror = ({target}) => {  // the browser tries again by itself, unless an answer said no
    if (target !== stream || target.readyState !== EventSource.CLOSED) return;
    closeStream();
    again = setTimeout(openStream, waitMs);
    // Once: a site that refuses everybody for now is not asked for a page each time, too.
    if (waitMs === AGAIN_MS) document.dispatchEvent(new CustomEvent("live:refused", {detail: {}}));
    waitMs = Math.min(2 * waitMs, LONGEST_MS);
  };
}

function hear(name, heard) {
  document.addEventListener(`live:${name}`, ({detail}) => heard(detail));
}

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return openStream();
  others?.postMessage("hidden");
  clearTimeout(again);
  again = setTimeout(() => document.hidden && closeStream(), HIDDEN_MS);
});
others?.addEventListener("message", () => document.hidden && closeStream());
addEventListener("pagehide", closeStream);
addEventListener("pageshow", event => event.persisted && openStream());
addEventListener("offline", closeStream);
addEventListener("online", () => document.hidden || openStream());
document.addEventListener("DOMContentLoaded", () => document.hidden || openStream());  // all scripts listen by then

// Statuses that came onto the timeline since the page was made, and what becomes of those on it.
const news = new Set();
function tellNews(words) {
  const place = document.querySelector("[data-news]");
  if (!place) return;
  words ??= news.size && `${news.size} new ${news.size > 1 ? "statuses" : "status"}`;
  place.innerHTML = words ? `<a class="button" href="/" data-swap="latest cost" data-new="${news.size}">${words}</a>` : "";
  tellTitle();
}
hear("status", ({id}) => {
  const shown = document.querySelectorAll("#latest article");
  // What moves up from the second page is no news: it comes by the link to older ones.
  const older = document.querySelector("#latest a[rel=next]") && shown.length && `s${id}` < shown[shown.length - 1].id;
  if (older || document.getElementById(`s${id}`)) return;
  news.add(id);
  tellNews();
});
hear("status_gone", ({id}) => {
  if (news.delete(id)) tellNews();
  if (document.querySelector("[data-news]")) document.getElementById(`s${id}`)?.closest("li").remove();
});
hear("likes", ({id, likes, you_like}) => {
  const form = document.querySelector(`#s${id} footer form`);
  if (!form) return;
  form.action = form.action.replace(/\/(un)?like$/, you_like ? "/unlike" : "/like");
  form.querySelector(".like").setAttribute("aria-pressed", you_like);
  const said = form.parentElement.querySelector(".likes") ?? document.createElement("span");
  said.className = "likes";
  said.textContent = `${likes.toLocaleString("en")} ${likes === 1 ? "like" : "likes"}`;
  if (likes) form.after(said);
  else said.remove();
});
hear("person", ({handle, name}) => {
  for (const link of document.querySelectorAll(`.status a.who[href="/@${handle}"]`)) {
    link.textContent = name;
    link.closest(".status").querySelector(".face").textContent = [...name][0];
  }
});
hear("presence", ({handle, presence}) => {
  for (const dot of document.querySelectorAll(`[data-here="${handle}"]`)) dot.hidden = !presence?.online;
});
hear("reset", () => {
  news.clear();
  tellNews("Show what is new");
});

// What is unread, on every page, and a list of notifications that is looked at.
function tellUnread(counts) {
  for (const bell of document.querySelectorAll("[data-badge]")) {
    const unread = counts[bell.dataset.badge];
    if (unread === undefined) continue;
    bell.dataset.unread = unread;
    bell.querySelector(".away").textContent = `${bell.dataset.words}${unread ? ", unread: " : ""}`;
    bell.querySelector("b")?.remove();
    if (unread) bell.append(Object.assign(document.createElement("b"), {textContent: unread > 9 ? "9+" : unread}));
  }
  tellTitle();
}
let telling = null, stale = false;
async function tellNotifications() {
  stale = true;
  telling ??= (async () => {
    while (stale) {
      stale = false;
      const page = await load("/notifications");
      document.getElementById("told").replaceWith(page.getElementById("told"));
    }
  })().catch(() => {}).finally(() => { telling = null; });  // the next event, or a reload, brings it
}
for (const name of ["ready", "unread", "notification", "notification_gone", "reset"]) {
  hear(name, counts => {
    const told = document.querySelector("#told[data-first]");
    const same = (name === "ready" || name === "unread") && counts.unread === Number(told?.dataset.first);
    tellUnread(counts);
    if (told && !same) tellNotifications();
  });
}
hear("refused", () => document.querySelector("#told[data-first]") && tellNotifications());  // it may be somebody else's

// The title says how much is new and unread, for whoever looks at another window.
const title = document.title;
function tellTitle() {
  const bells = [...document.querySelectorAll("[data-unread]")];
  const all = bells.reduce((sum, bell) => sum + Number(bell.dataset.unread), document.querySelector("[data-new]")?.dataset.new | 0);
  document.title = all ? `(${all}) ${title}` : title;
}
tellTitle();

// Another page, for parts of it. It is for whom this one is: where somebody else has signed in beside it, this one is loaded
// anew, so that nothing is shown to one, or marked as read, on a page of the other; and not before somebody looks, as that
// marks, too. Where they have signed in once more, it has the proof that forms need now.
async function load(address) {
  const answer = await fetch(address);
  if (!answer.ok || answer.redirected) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const {me} = page.body.dataset, proof = page.querySelector("input[name=proof]");
  if (me !== document.body.dataset.me) {
    if (me && document.hidden) document.addEventListener("visibilitychange", () => location.reload(), {once: true});
    else if (me) location.reload();
    throw new Error("somebody else's page");
  }
  if (proof) document.querySelectorAll("input[name=proof]").forEach(input => { input.value = proof.value; });
  return page;
}

// Links that replace parts of the page instead of loading all of it.
async function swap(link) {
  const ids = link.dataset.swap.split(" ");
  for (const id of ids) document.getElementById(id).setAttribute("aria-busy", "true");
  const page = await load(link.href);
  const parts = ids.map(id => page.getElementById(id));
  ids.forEach((id, at) => document.getElementById(id).replaceWith(parts[at]));
  for (const part of parts) {
    part.querySelectorAll("[data-live]").forEach(keepLive);
    if (!part.querySelector("[data-news]")) continue;
    news.clear();
    last = null;  // the stream goes on where the new part is
    closeStream();
    openStream();
  }
  tellTitle();
  parts[0].focus({preventScroll: true});
  if (parts[0].getBoundingClientRect().top < 0) parts[0].scrollIntoView();
}

document.addEventListener("click", event => {
  const link = event.target.closest("a[data-swap]");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  swap(link).catch(() => location.assign(link.href));
});

// Who deletes a status, or mutes its author, stays where they are: it goes, what the answer says of it is said here too,
// and the keyboard is at the next one.
async function takeOut(form) {
  const own = form.closest("li"), all = [...document.querySelectorAll("#list > li")];
  const author = form.action.endsWith("/mute") && own.querySelector(".who").getAttribute("href");
  const gone = author ? all.filter(item => item.querySelector(".who").getAttribute("href") === author) : [own];
  const near = [...all.slice(all.indexOf(own)), ...all.slice(0, all.indexOf(own)).reverse()];
  const answer = await fetch(form.action, {method: "POST", body: new URLSearchParams(new FormData(form))});
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const said = page.querySelectorAll(".said, #undo");
  if (!answer.ok || !said.length) throw new Error(answer.statusText);
  for (const item of gone) item.remove();  // unless the stream has been faster
  const next = near.find(item => item.isConnected);
  if (!next) document.getElementById("latest").replaceWith(page.getElementById("latest"));
  document.querySelectorAll(".said, #undo").forEach(had => had.remove());
  document.getElementById("main").append(...said);
  (next?.querySelector("a") ?? document.getElementById("latest")).focus({preventScroll: true});
  next?.scrollIntoView({block: "nearest"});
}
document.addEventListener("submit", event => {
  const form = event.target.closest("#latest .menu form");
  if (!form) return;
  event.preventDefault();
  form.querySelector("button").disabled = true;
  takeOut(form).catch(() => form.isConnected ? form.submit() : location.reload());
});

// A form that no script sends goes out once: who presses again while the answer is on its way would be answered about the
// second time, as that their old password is wrong. Who stops the loading may send it again, a moment later.
const ONCE_MS = 10_000;
const sentAt = new Map();
document.addEventListener("submit", event => {
  const {target: form} = event, now = performance.now();
  if (event.defaultPrevented || form.method !== "post") return;
  if (now - sentAt.get(form) < ONCE_MS) event.preventDefault();
  else sentAt.set(form, now);
});
addEventListener("pageshow", () => sentAt.clear());

// A draft outlives its page, whatever happens to that, and stays in this tab until it is posted. With it is kept what
// makes posting it twice one status.
for (const form of document.querySelectorAll("form[data-draft]")) {
  const key = `draft ${form.dataset.draft}`;
  const {text, audience, once} = form.elements, fold = form.previousElementSibling;
  const keep = () => remember(key, text.value.trim() ? [text.value, audience.value, once.value] : null);
  const kept = recall(key), isPosted = form.dataset.said === "posted" && kept?.[2] === recall("posting");  // by this tab
  if (kept && !isPosted && !text.value) [text.value, audience.value, once.value] = kept;
  if (text.value) fold.open = true;
  keep();
  form.addEventListener("input", keep);
  form.addEventListener("submit", () => remember("posting", once.value));
  fold.addEventListener("click", () => setTimeout(() => fold.open && text.focus()));
}
document.querySelector("form[action='/sign-out']")?.addEventListener("submit", () => {
  try {
    sessionStorage.clear();
  } catch {}  // it keeps nothing
  indexedDB.deleteDatabase("feedlab");
});

// What is open, and what is said, goes by Escape and by a click beside it; what can be undone stays until Escape.
function closeMenus(unless) {
  for (const menu of document.querySelectorAll(".menu[open]")) {
    if (menu.contains(unless)) continue;
    if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
    menu.open = false;
  }
}
document.addEventListener("click", event => {
  closeMenus(event.target);
  if (!event.target.closest(".said")) document.querySelector(".said:not(:has(button))")?.remove();
});
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
