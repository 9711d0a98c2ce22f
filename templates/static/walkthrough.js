// Sliders show their value, an experiment runs without leaving the chapter, and code can be copied. Without this file
// the first two work by pages, and code has no button.
"use strict";

const PAUSE_MS = 400, SHOWN_MS = 2000;
const pause = () => new Promise(done => setTimeout(done, PAUSE_MS));

function follow(form) {
  for (const output of form.querySelectorAll("output")) {
    const knob = form.elements[output.htmlFor.value];
    const show = () => { output.value = `${Number(knob.value).toLocaleString("en")} ${output.dataset.unit}`.trim(); };
    knob.addEventListener("input", show);
    show();
  }
}

async function run(form, outcome) {
  let answer = await fetch(form.action, {method: "POST", body: new URLSearchParams(new FormData(form))});
  if (!answer.ok) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    refuse(outcome, page.querySelector(".oops p:not(.soft)")?.textContent);
    return;
  }
  const address = `${answer.url}?part=1`;
  let shown = "";
  for (;;) {
    answer = await fetch(address);
    const part = await answer.text();
    if (!answer.ok) throw new Error(answer.statusText);
    if (part !== shown) outcome.innerHTML = shown = part;
    if (answer.headers.get("X-Run-State") !== "running") return;
    await pause();
  }
}

function refuse(outcome, words) {
  const notice = document.createElement("p");
  notice.className = "notice bad";
  notice.setAttribute("role", "alert");
  notice.textContent = words || "The site did not answer. Try again in a moment.";
  outcome.replaceChildren(notice);
}

async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = document.createElement("textarea"); // a page that came over plain HTTP has no clipboard
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  if (!copied) throw new Error("not copied");
}

for (const code of document.querySelectorAll(".prose pre")) {
  const listing = document.createElement("div"), button = document.createElement("button");
  listing.className = "listing";
  button.className = "button quiet copy";
  button.type = "button";
  button.textContent = "Copy";
  button.setAttribute("aria-live", "polite");
  code.replaceWith(listing);
  listing.append(code, button);
  button.addEventListener("click", async () => {
    try {
      await copy(code.textContent);
      button.textContent = "Copied";
    } catch {
      button.textContent = "Not copied";
    }
    setTimeout(() => { button.textContent = "Copy"; }, SHOWN_MS);
  });
}

for (const form of document.querySelectorAll("form[data-experiment]")) {
  const outcome = form.closest(".experiment").querySelector(".outcome");
  const button = form.querySelector("button");
  follow(form);
  form.addEventListener("submit", async event => {
    event.preventDefault();
    if (button.getAttribute("aria-disabled")) return;
    button.setAttribute("aria-disabled", "true");
    try {
      await run(form, outcome);
    } catch {
      refuse(outcome);
    } finally {
      button.removeAttribute("aria-disabled");
    }
  });
}

// What is folded is printed too, where the style sheet alone cannot open it.
addEventListener("beforeprint", () => document.querySelectorAll("main details").forEach(one => { one.open = true; }));
