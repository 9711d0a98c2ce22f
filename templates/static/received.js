"use strict";
/* A message that has come over the page's stream of events is delivered; the page that shows it says more. */
document.addEventListener("live:message", ({detail: {conversation, message}}) => {
  const isOwn = message.client_id !== null;
  const isShown = document.getElementById("end")?.matches("form") && !document.hidden
    && document.getElementById("talking")?.dataset.conversation === conversation;
  if (isOwn || isShown || message.state !== "sent") return;
  const proof = document.querySelector("input[name=proof]").value;
  fetch(`/conversations/${conversation}/receipt`, {
    method: "POST", body: new URLSearchParams({proof, delivered: message.seq}), keepalive: true,
  }).catch(() => {});  // the next message, or looking at them, says it again
});
