// Unsent questions, kept in this browser for each chat. Runs when the page loads, with the open chat and the text in the
// box; returns the box's text, or [] to leave it. The events of ui/pages/chat/drafts.py call window.ggufChatDrafts.
(key, text) => {
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
  let open = key ?? ""; // "" is a new chat; null: its chat was deleted, nothing is kept
  let sent = null; // the question that will give a new chat its key
  window.ggufChatDrafts = {
    typed: (words) => {
      if (words === sent) sent = null; // it came back unanswered
      save(open, words ?? "");
      return [];
    },
    send: (words) => {
      if (!words?.trim()) return [];
      sent = open === "" ? words : null;
      save(open, "");
      return [];
    },
    turn: (chat, words) => {
      const before = open;
      open = chat ?? "";
      if (before === open) return [];
      const begun = before === "" && sent !== null && words !== sent;
      sent = null;
      if (begun) save("", ""); // what is in the box was typed after the question that began this chat
      save(begun ? open : before, words ?? "");
      return begun ? [] : [draft(open)];
    },
    forget: (all) => {
      if (all) write([]);
      else save(open, "");
      open = null;
      return [];
    },
  };
  const asked = (window.ggufChatAddress?.q ?? "").slice(0, LONGEST); // it waits in a new chat, and is not sent by itself
  if (asked && !text) {
    open = "";
    save(open, asked);
  }
  return text ? [] : [draft(open)];
}
