// Keeps a page up to date. Everything here works without it, by reloading.
"use strict";

// A form that starts something is sent once; its idempotency key makes a second submission the same request.
for (const form of document.querySelectorAll("form[data-once]")) {
  form.addEventListener("submit", () => {
    for (const button of form.querySelectorAll("button")) {
      button.setAttribute("aria-disabled", "true");
      button.textContent = "One moment…";
    }
  });
}

// An open rotation is polled once a second until it is closed. Only a changed region is replaced, so that a field keeps
// what a user is typing.
async function follow(region) {
  const ended = () => region.querySelector("[data-settled=yes]") !== null;
  while (!ended()) {
    await new Promise((done) => setTimeout(done, 1000));
    try {
      const answer = await fetch(region.dataset.poll, { headers: { accept: "text/html" } });
      if (answer.status === 401 || answer.redirected) return;
      if (!answer.ok) continue;
      const fresh = document.createElement("template");
      fresh.innerHTML = await answer.text();
      const [now, before] = [fresh.content.firstElementChild, region.firstElementChild];
      if (now.dataset.state !== before.dataset.state) region.replaceChildren(now);
    } catch {
      // The desk or the network is down: the next poll tries again.
    }
  }
}
for (const region of document.querySelectorAll("[data-poll]")) follow(region);

// A draft as it is written. The browser reconnects by itself, and sends what it has seen as Last-Event-ID.
for (const section of document.querySelectorAll("[data-draft][data-ended=no]")) {
  const text = section.querySelector("#draft-text");
  const state = section.querySelector("#draft-state");
  const source = new EventSource(section.dataset.draft);
  const dataOf = (event) => JSON.parse(event.data);
  source.addEventListener("text", (event) => {
    text.append(dataOf(event).text);
    state.textContent = "streaming";
  });
  source.addEventListener("reset", () => {
    text.textContent = "";
    state.textContent = "started again";
  });
  source.addEventListener("error", () => {
    if (source.readyState === EventSource.CLOSED) state.textContent = "connection closed: reload this page";
  });
  source.addEventListener("end", (event) => {
    source.close();
    const { state: ended, approved, reason, explanation } = dataOf(event);
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
    const body = new URLSearchParams(new FormData(event.target));
    const answer = await fetch(event.target.action, { method: "POST", body, redirect: "manual" }).catch(() => null);
    if (answer === null || answer.status >= 400) state.textContent = "the draft could not be stopped: try again";
  });
}

// The form of a question shows the fields that the chosen line's condition reads, and the kinds that it covers.
const lines = document.querySelector("#policy_lines");
if (lines !== null) {
  const kind = document.querySelector("#kind");
  const show = () => {
    const { when, kinds } = lines.selectedOptions[0].dataset;
    for (const field of document.querySelectorAll("[data-needs]")) {
      const control = field.querySelector("input, select");
      field.hidden = !field.dataset.needs.split(" ").includes(when) && control.value === "" && when !== "prose";
    }
    const covered = kinds.split(" ");
    if (!covered.includes(kind.value)) kind.value = covered[0];
  };
  lines.addEventListener("change", show);
  show();
}

// Copies an approved draft: one that is not approved is to be read, and not to be sent.
const copy = document.querySelector("#copy");
if (copy !== null) {
  const isApproved = () => document.querySelector("#draft-state").textContent.startsWith("completed: approved");
  const show = () => { copy.hidden = !isApproved(); };
  new MutationObserver(show).observe(document.querySelector("#draft-state"), { childList: true, characterData: true, subtree: true });
  show();
  copy.addEventListener("click", async () => {
    const done = document.querySelector("#copied");
    try {
      await navigator.clipboard.writeText(document.querySelector("#draft-text").textContent);
      done.textContent = "copied";
    } catch {
      done.textContent = "this browser does not copy: select the text";
    }
  });
}

// One checkbox for all on the page.
const all = document.querySelector("#select-all");
if (all !== null) {
  all.hidden = false;
  all.addEventListener("change", () => {
    for (const box of document.querySelectorAll("input[name=choice]")) box.checked = all.checked;
  });
}

// The keyboard: `g` and a letter go to a room, `/` to the first filter, `?` lists them. Nothing while a field is typed in.
let going = false;
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, dialog[open]") !== null;
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const room = going ? document.querySelector(`nav a[data-key="${CSS.escape(event.key)}"]`) : null;
  going = event.key === "g" && !going;
  if (room !== null) room.click();
  else if (event.key === "?") document.querySelector("#keys").showModal();
  else if (event.key === "/") {
    event.preventDefault();
    document.querySelector(".filters input, .filters select")?.focus();
  }
});
