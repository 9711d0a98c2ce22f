// Two clients that others have written. Whatever happens to them is told, a line of JSON each.
// Arguments: the API's address, a token, and a ticket for the WebSocket's first connection.
import { EventSource } from "eventsource";
import WebSocket from "ws";

const [api, token, ticket] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${token}` };
const say = (client, event, more) => console.log(JSON.stringify({ client, event, ...more }));

const source = new EventSource(`${api}/live`, {
  fetch: (url, options) => fetch(url, { ...options, headers: { ...options.headers, ...headers } }),
});
for (const event of ["ready", "status", "status_gone", "likes", "reset"]) {
  source.addEventListener(event, (told) => say("eventsource", event, { id: told.lastEventId, data: JSON.parse(told.data) }));
}

let last;
function connect(query, options) {
  const socket = new WebSocket(`${api.replace("http", "ws")}/live/socket${query}`, options);
  socket.on("message", (text) => {
    const told = JSON.parse(text);
    last = told.id;
    say("ws", told.event, { id: told.id, data: told.data });
  });
  socket.on("ping", () => say("ws", "ping"));
  socket.on("close", (code) => {
    say("ws", "close", { code, extensions: socket.extensions });
    connect(`?after=${last}`, { headers });
  });
}
connect(`?ticket=${ticket}`);

process.stdin.on("end", () => process.exit()).resume();
