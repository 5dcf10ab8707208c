// Keeps a page up to date. Everything here works without it, by reloading.
"use strict";

// A form that begins something is sent once; the same key in it makes a second sending the same request.
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", () => {
    for (const button of form.querySelectorAll("button")) {
      button.setAttribute("aria-disabled", "true");
      button.textContent = "One moment…";
    }
  });
}

// What goes on by itself is looked at once a second until it has settled; what a person is typing into is left alone.
async function follow(region) {
  const settled = () => region.querySelector("[data-settled=yes]") !== null;
  while (!settled()) {
    await new Promise((done) => setTimeout(done, 1000));
    if (region.contains(document.activeElement)) continue;
    try {
      const answer = await fetch(region.dataset.poll, { headers: { accept: "text/html" } });
      if (answer.status === 401) return;
      if (!answer.ok) continue;
      const now = await answer.text();
      if (now !== region.dataset.seen) region.innerHTML = now;
      region.dataset.seen = now;
    } catch {
      // The desk or the way to it is away: looked at again.
    }
  }
}
for (const region of document.querySelectorAll("[data-poll]")) follow(region);

// A draft as it is written. The browser reconnects by itself and says what it has seen.
for (const section of document.querySelectorAll("[data-draft][data-ended=no]")) {
  const text = section.querySelector("#draft-text");
  const state = section.querySelector("#draft-state");
  const source = new EventSource(section.dataset.draft);
  const told = (event) => JSON.parse(event.data);
  source.addEventListener("text", (event) => {
    text.append(told(event).text);
    state.textContent = "streaming";
  });
  source.addEventListener("reset", () => {
    text.textContent = "";
    state.textContent = "started over";
  });
  source.addEventListener("end", (event) => {
    source.close();
    const { state: ended, approved, reason, explanation } = told(event);
    const why = reason ? `: ${reason.replaceAll("_", " ")}. ${explanation ?? ""}` : "";
    const good = ended === "completed" && approved;
    state.textContent = good
      ? "completed: approved for a person to read and send"
      : (ended === "completed" ? "unapproved" : ended) + why;
    state.className = `outcome ${ended}${ended === "completed" && !approved ? " unapproved" : ""}`;
    text.setAttribute("aria-busy", "false");
    section.querySelector("#stop")?.remove();
  });
  section.querySelector("#stop")?.addEventListener("submit", async (event) => {
    event.preventDefault();
    state.textContent = "stopping";
    await fetch(event.target.action, { method: "POST", body: new URLSearchParams(new FormData(event.target)), redirect: "manual" });
  });
}
