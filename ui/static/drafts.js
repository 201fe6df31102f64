// Unsent questions, kept in this browser for each chat. Runs when the page loads, with the open chat. The box
// (composer.js) and the events of ui/pages/chat/drafts.py call window.ggufChatDrafts.
(key) => {
  const STORE = "gguf-chat.drafts";
  const [MOST, LONGEST] = [50, 20000]; // drafts; characters of one
  const read = () => {
    try {
      return Object.entries(JSON.parse(localStorage.getItem(STORE)) ?? {}).filter(([, kept]) => typeof kept === "string");
    } catch {
      return []; // damaged, or storage is forbidden
    }
  };
  const write = (kept) => {
    try {
      localStorage.setItem(STORE, JSON.stringify(Object.fromEntries(kept.slice(-MOST))));
    } catch {} // full or forbidden: the draft lives as long as the page
  };
  const draft = (chat) => read().find(([name]) => name === chat)?.[1] ?? "";
  const save = (chat, words) => {
    if (chat === null || draft(chat) === words) return;
    const others = read().filter(([name]) => name !== chat);
    write(words && words.length <= LONGEST ? [...others, [chat, words]] : others);
  };
  const box = () => document.querySelector("#question textarea");
  const set = (words) => {
    if (window.ggufChat?.composer) window.ggufChat.composer.text = words;
    else if (box()) box().value = words;
  };
  let open = key ?? ""; // "" is a new chat; null: its chat was deleted, nothing is kept
  let leaving = true; // the reader opens another chat, as the page does at first; else a question has begun one
  window.ggufChatDrafts = {
    typed: (words) => save(open, words),
    send: () => {
      leaving = false;
      save(open, "");
    },
    leave: () => {
      leaving = true;
    },
    turn: (chat) => {
      const [before, opened] = [open, leaving];
      if (before === (chat ?? "")) return;
      const words = box()?.value ?? "";
      [open, leaving] = [chat ?? "", false];
      save(before, opened ? words : "");
      if (opened) set(draft(open));
      else save(open, words); // typed after the question that began this chat, or one that came back unanswered
    },
    // Those of chats that are deleted: `take` removes and returns them, `put` brings them back.
    take: (chats) => {
      const kept = read();
      if (chats.includes(open)) [open, leaving] = [null, true];
      write(kept.filter(([chat]) => !chats.includes(chat)));
      return kept.filter(([chat]) => chats.includes(chat));
    },
    put: (drafts) => write([...read(), ...drafts]),
    forget: (all) => {
      if (all) write([]);
      else save(open, "");
      [open, leaving] = [null, true];
    },
  };
  const asked = (window.ggufChatAddress?.q ?? "").slice(0, LONGEST); // it waits in a new chat, and is not sent by itself
  const typed = box()?.value;
  if (asked && !typed) {
    open = "";
    save(open, asked);
  }
  if (!typed) set(draft(open));
}
