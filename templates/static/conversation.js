"use strict";
/* What conversations gain by JavaScript: a draft that stays, older messages as one scrolls, an outbox, and what is new
   without a reload. What is sent while the server cannot be reached waits in this browser and goes out in order; its
   `once` makes sending it again, by whichever tab, one message. */
{
const talking = document.getElementById("talking");
const {conversation, with: other} = talking.dataset, {me} = document.body.dataset;
const proof = () => document.querySelector("input[name=proof]").value;
const form = document.querySelector("form.say");
const tabs = channel("feedlab outbox");
const AGAIN_MS = 5_000, OPENS_MS = 2_000;

// The outbox: records {n, me, conversation, once, text, refused?}, by `n` in the order of their sending. Who signs out, in
// whatever tab, deletes it: each tab lets go of it then, and one that does not keeps the others from opening it.
let opened = null;
function database() {
  opened ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open("feedlab", 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore("outbox", {keyPath: "n", autoIncrement: true});
    asked.onsuccess = () => {
      asked.result.onversionchange = () => { asked.result.close(); opened = null; };
      resolve(asked.result);
    };
    asked.onerror = () => reject(asked.error);
    setTimeout(reject, OPENS_MS, new Error("the outbox does not open"));
  }).catch(error => { opened = null; throw error; });
  return opened;
}

async function stored(mode, work) {
  const transaction = (await database()).transaction("outbox", mode);
  const asked = work(transaction.objectStore("outbox"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(asked.result);
    transaction.onabort = () => reject(transaction.error);
  });
}

async function waiting() {
  return (await stored("readonly", outbox => outbox.getAll())).filter(one => one.me === me);
}

function secret() {
  return Array.from(crypto.getRandomValues(new Uint8Array(12)), byte => byte.toString(16).padStart(2, "0")).join("");
}

// One tab sends at a time, as far as the browser can say so; where it cannot, sending twice is one message.
async function flush() {
  const isSent = await (navigator.locks ? navigator.locks.request("feedlab outbox", sendAll) : sendAll());
  if (isSent) await refresh();
  await show();
}

let again;
async function sendAll() {
  clearTimeout(again);
  let isSent = false;
  for (const one of await waiting()) {
    if (one.refused !== undefined) continue;
    const answer = await send(one);
    if (!answer) {
      again = setTimeout(flush, AGAIN_MS);
      break;
    }
    if (answer.isSent) await stored("readwrite", outbox => outbox.delete(one.n));
    else await stored("readwrite", outbox => outbox.put({...one, refused: answer.why}));
    tabs?.postMessage("sent");
    isSent ||= answer.isSent;
  }
  return isSent;
}

// What became of it; null: nobody knows, and it is tried again. A problem of ours alone says that it is refused: whoever else
// answers, on the way or before it is looked at, may not do so the next time. No answer is a page: one says what has been read.
const REFUSALS = [403, 404, 409, 422];
let isSignedOut = false;
async function send(one) {
  const {conversation, once, text} = one;
  try {
    const answer = await fetch(`/conversations/${conversation}/messages`, {
      method: "POST", body: new URLSearchParams({proof: proof(), by: "outbox", once, text}), redirect: "manual",
      signal: AbortSignal.timeout(30_000),
    });
    isSignedOut = answer.status === 401;
    if (answer.status === 204) return {isSent: true};
    const isOurs = answer.headers.get("Content-Type") === "application/problem+json";
    if (isOurs && REFUSALS.includes(answer.status)) return {isSent: false, why: (await answer.json()).detail};
    return answer.status === 403 && await isProvedAnew() ? send(one) : null;
  } catch {
    return null;
  }
}

// A page that was there before its person signed in once more has the proof of the session before.
async function isProvedAnew() {
  const had = proof();
  await load("/conversations");
  return proof() !== had;
}

// What waits is shown below what has been sent, unless it has been, and only the answer that says so is still to come.
async function show() {
  const list = document.getElementById("waiting");
  if (!list) return;
  const now = list.cloneNode();
  now.append(...(await waiting()).filter(one => one.conversation === conversation).map(bubble));
  renew(list, now);
  withdraw(list);
}

function withdraw(list = document.getElementById("waiting")) {
  const sent = new Set(Array.from(document.querySelectorAll("#messages [data-once]"), item => item.dataset.once));
  for (const item of [...list.children]) if (sent.has(item.dataset.once)) item.remove();
  list.hidden = !list.children.length;
}

function bubble(one) {
  const item = document.createElement("li");
  item.dataset.once = one.once;
  item.className = `message own waiting${one.refused === undefined ? "" : " failed"}`;
  const article = document.createElement("article"), text = document.createElement("p");
  const foot = document.createElement("footer");
  article.className = "bubble";
  article.ariaLabel = "You";
  text.className = "text";
  text.dir = "auto";
  text.textContent = one.text;
  if (one.refused !== undefined) foot.append(`Not sent. ${one.refused} `, remove(one));
  else if (isSignedOut) foot.append("Not sent: you are signed out. ", signIn());
  else foot.append("Waiting to be sent");
  article.append(text, foot);
  item.append(article);
  return item;
}

function signIn() {
  return Object.assign(document.createElement("a"), {href: `/sign-in?next=${address}`, textContent: "Sign in to send it"});
}

function remove(one) {
  const button = document.createElement("button");
  button.className = "link";
  button.textContent = "Remove";
  button.addEventListener("click", async () => {
    if (form) {
      const {text} = form.elements;
      text.value = [text.value, one.text].filter(Boolean).join("\n");
      text.dispatchEvent(new Event("input"));
    }
    await stored("readwrite", outbox => outbox.delete(one.n));
    await show();
  });
  return button;
}

// The newest messages, as a page has them now, each once. Where more have come than a page has, the list begins anew: the
// others are on older pages.
const number = message => Number(message?.id.slice(1) ?? 0);
function merge(page) {
  const list = document.getElementById("messages"), theirs = page.getElementById("messages");
  if (number(theirs.querySelector(".message")) > number(list.lastElementChild) + 1) {
    const [had, has] = [document, page].map(one => one.querySelector("a[data-older]")?.parentElement);
    had?.remove();
    if (has) talking.prepend(has);
    list.replaceChildren();
    watchOlder();
  }
  for (const item of [...theirs.children]) {
    const same = item.id ? document.getElementById(item.id) : list.querySelector(`[data-day="${item.dataset.day}"]`);
    if (!same) list.append(item);
    else if (item.id) update(same, item);
  }
  if (list.firstElementChild) document.querySelector("#talking > .empty")?.remove();
  withdraw();
}

// Pages do not come in the order in which they were made, and what is told of a message only goes on: a page that tells
// less is older. What has not changed stays as it is: somebody may have the keyboard there.
const STAGES = ["sent", "delivered", "read", "deleted"];
function update(message, now) {
  const [had, has] = [message, now].map(stage);
  if (has <= had) return;
  if (STAGES[has] === "deleted") return message.replaceWith(now);
  message.querySelector(".ticks").replaceWith(now.querySelector(".ticks"));
}

function stage(message) {
  return message.querySelector(".soft") ? STAGES.indexOf("deleted")
    : STAGES.findIndex(name => message.querySelector(`.ticks.${name}`));
}

// What events say is said of whatever is shown: of older messages than a page has, too.
function tellStage(name, to) {
  for (const message of document.querySelectorAll("#messages > .own")) {
    if (number(message) > to || stage(message) >= STAGES.indexOf(name)) continue;
    const ticks = message.querySelector(".ticks"), [drawn, said] = ticks.children;
    ticks.className = `ticks ${name}`;
    drawn.textContent = "✓✓";
    said.textContent = name[0].toUpperCase() + name.slice(1);
  }
}

function tellDeleted(message) {
  if (!message || STAGES[stage(message)] === "deleted") return;
  const said = Object.assign(document.createElement("p"), {className: "soft", textContent: "This message was deleted."});
  message.querySelectorAll(".text, .picture, .menu").forEach(part => part.remove());
  message.querySelector("footer").before(said);
}

// The page as it is now; loading it says what has been read. One at a time, and once more where something came meanwhile.
const address = conversation ? `/conversations/${conversation}` : location.pathname;
let refreshing = null, missed = false;
async function refresh() {
  missed = true;
  if (document.hidden || location.search || (conversation && !form)) return;
  refreshing ??= (async () => {
    while (missed && !document.hidden) {
      missed = false;
      await load(address).then(conversation ? showNow : showList, () => {});
    }
  })().finally(() => { refreshing = null; });
  await refreshing;
}

function showNow(page) {
  const last = document.getElementById("messages").lastElementChild?.id;
  const end = document.getElementById("end"), isAtEnd = end.getBoundingClientRect().top < innerHeight;
  merge(page);
  for (const id of ["who", "here"]) {
    const had = document.getElementById(id), has = page.getElementById(id);
    if (had.innerHTML !== has.innerHTML) had.replaceWith(has);
  }
  const isNew = document.getElementById("messages").lastElementChild?.id !== last;
  if (isNew && isAtEnd) end.scrollIntoView({block: "end"});
}

function showList(page) {
  const now = page.getElementById("talking"), at = document.activeElement?.getAttribute("href");
  if (talking.innerHTML === now.innerHTML) return;
  talking.innerHTML = now.innerHTML;
  for (const link of talking.querySelectorAll("a")) if (at && link.getAttribute("href") === at) link.focus({preventScroll: true});
}

hear("message", ({conversation: id, message: {seq, text, image}}) => {
  if (id === conversation && text === null && image === null) tellDeleted(document.getElementById(`m${seq}`));
});
hear("conversation", ({id, delivered_to, read_to}) => {
  if (id !== conversation) return;
  tellStage("delivered", delivered_to);
  tellStage("read", read_to);
});

// Events of the page's stream say that something is new here; a stream that begins says that something may be, and one
// that is refused that somebody else may have signed in.
function refreshOn(name, concerns = () => true) {
  hear(name, detail => concerns(detail) && refresh());
}
let marks;
refreshOn("ready");
refreshOn("refused");
refreshOn("reset");
refreshOn("message", ({conversation: id}) => !conversation || id === conversation);
refreshOn("conversation", ({id, with: {handle}, delivered_to, read_to}) => {  // one's own reading is one, and tells nothing
  if (!conversation) return true;
  const had = marks;
  if (id === conversation) marks = `${delivered_to} ${read_to} ${handle}`;
  return marks !== had;
});
for (const name of ["presence", "person"]) refreshOn(name, ({handle}) => !conversation || handle === other);

if (form) {
  const {text, once} = form.elements, key = `draft conversation ${me} ${conversation}`;
  const keep = () => remember(key, text.value.trim() ? [text.value, once.value] : null);
  const [draft, its] = recall(key) ?? [];
  if (its && document.querySelector(`#messages [data-once="${its}"]`)) remember(key, null);  // it has been sent
  else if (draft && !text.value) [text.value, once.value] = [draft, its];
  text.addEventListener("input", keep);
  form.addEventListener("submit", async event => {
    if (!text.value.trim() || [...text.value.trim()].length > text.dataset.count) return;
    event.preventDefault();
    if (text.readOnly) return;
    text.readOnly = true;  // until it is kept, or on its way
    const record = {me, conversation, once: once.value, text: text.value};
    const isKept = await stored("readwrite", outbox => outbox.add(record)).then(() => true, () => false);
    text.readOnly = false;
    if (!isKept) return form.submit();  // a browser that keeps nothing sends forms
    once.value = secret();
    text.value = "";
    text.dispatchEvent(new Event("input"));
    tabs?.postMessage("waits");
    await show();
    await flush();
    document.getElementById("end").scrollIntoView({block: "end"});
  });
}

// Older messages come as one scrolls. The day with which the list begins may have begun on their page.
const watcher = "IntersectionObserver" in window
  ? new IntersectionObserver(([seen]) => seen.isIntersecting && addOlder(seen.target).catch(() => {}))  // the link is there
  : null;

function watchOlder() {
  document.querySelectorAll("a[data-older]").forEach(link => watcher?.observe(link));
}

async function addOlder(link) {
  watcher.unobserve(link);
  const page = await load(link.href), next = page.querySelector("a[data-older]");
  if (!link.isConnected) return;  // the list has begun anew
  const list = document.getElementById("messages"), theirs = page.getElementById("messages");
  const height = list.offsetHeight, [day] = list.children;
  if (theirs.querySelector(`[data-day="${day.dataset.day}"]`)) day.remove();
  list.prepend(...theirs.children);
  withdraw();
  scrollBy({top: list.offsetHeight - height, behavior: "instant"});
  if (!next) return link.parentElement.remove();
  link.href = next.getAttribute("href");
  watcher.observe(link);
}
watchOlder();

tabs?.addEventListener("message", ({data}) => data === "waits" ? show() : refresh().then(show));
addEventListener("online", flush);
addEventListener("focus", refresh);
document.addEventListener("visibilitychange", refresh);
show().then(flush).catch(() => {});
}
