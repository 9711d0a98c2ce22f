// Sliders show their value, and an experiment runs without leaving the chapter. Without this file both work by pages.
"use strict";

const PAUSE_MS = 400;
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
