// Puts each piece of the page in place as the server sends it anew. Without this, the page works all the same.
"use strict";

const connection = document.getElementById("connection");
const source = new EventSource(new URL("live", document.currentScript.src).pathname + location.search);

for (const place of document.querySelectorAll("[data-live]")) {
  source.addEventListener(place.id, (piece) => {
    // The server has escaped all that strangers sent; and the page's policy lets nothing run that is not this file.
    place.innerHTML = piece.data;
  });
}

source.addEventListener("open", () => {
  connection.textContent = "Live";
  connection.className = "live";
});

source.addEventListener("error", () => {
  connection.textContent = source.readyState === EventSource.CLOSED
    ? "Not live: load the page again."
    : "The server does not answer; trying again.";
  connection.className = "lost";
});

// The answer to a form is what its sender wants to hear of first.
document.getElementById("answer")?.focus();
