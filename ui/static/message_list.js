// The list of messages. The server sends what changes (ui/render/message_items.py); this file draws it, each message once.
(() => {
  const ggufChat = (window.ggufChat ??= {});
  const PART = 60; // messages drawn at first, and again at each scroll to the top

  const { create } = ggufChat;

  ggufChat.MessageList = class {
    /** `scroller` gets the messages, `trigger(name, data)` sends an event to the server. */
    constructor(scroller, trigger) {
      this.scroller = scroller;
      this.trigger = trigger;
      this.column = create("div", { class: "column" });
      this.status = create("div", { id: "status" });
      this.end = create("div", { class: "end" });
      this.greeting = create("div", { class: "placeholder" });
      this.down = create("button", { type: "button", class: "down", hidden: true, onclick: () => this.toEnd(true) });
      this.top = create("div", { class: "top" });
      scroller.append(this.greeting, this.column, this.down);
      this.column.append(this.top, this.end, this.status);
      [this.items, this.drawn, this.begin, this.busy] = [[], new Map(), 0, false];
      this.stuck = true; // to the end, while text grows
      scroller.addEventListener("scroll", () => this.scrolled(), { passive: true });
      new ResizeObserver(() => this.stuck && this.toEnd()).observe(this.column);
      new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && this.showEarlier(), { root: scroller }).observe(this.top);
    }

    get words() {
      return ggufChat.words ?? {};
    }

    scrolled() {
      const { scrollTop, scrollHeight, clientHeight } = this.scroller;
      const before = this.seen ?? { scrollTop, scrollHeight };
      this.seen = { scrollTop, scrollHeight };
      if (scrollHeight - scrollTop - clientHeight < 48) this.stuck = true;
      else if (scrollTop < before.scrollTop && scrollHeight >= before.scrollHeight) this.stuck = false; // the reader did it
      this.down.hidden = this.stuck;
    }

    toEnd(smooth = false) {
      this.stuck = true;
      this.scroller.scrollTo({ top: this.scroller.scrollHeight, behavior: smooth ? "smooth" : "instant" });
      this.down.hidden = true;
    }

    /** Show what the server sent. A part that does not fit what is here asks for the whole. */
    show({ from, after, items, writing, status, redo, answer, undo, greeting }) {
      if (!items) [from, items, redo, answer] = [this.items.length, [], false, false]; // an error alone: the messages stay
      else if (from > 0 && this.items[from - 1]?.id !== after) return this.trigger("refresh", {});
      const isNew = from === 0 && items[0]?.id !== this.items[0]?.id;
      this.items = [...this.items.slice(0, from), ...items];
      if (isNew || !this.items.length) [this.begin, this.stuck] = [Math.max(0, this.items.length - PART), true];
      this.begin = Math.min(this.begin, Math.max(0, this.items.length - PART));
      this.setBusy(writing);
      this.growing?.remove();
      this.growing = null;
      if (greeting) this.greet(greeting);
      this.draw();
      if (writing) this.wait();
      if (writing && this.items.at(-1)?.role === "assistant") this.grow({ item: this.items.at(-1) }); // it goes on
      this.say(status);
      this.offer(redo, answer);
      if (undo) this.offerUndo(undo);
      if (this.stuck || writing) this.toEnd();
    }

    draw() {
      const focused = document.activeElement?.closest?.(".message");
      const wanted = new Set();
      let before = this.top;
      let turn = this.items.slice(0, this.begin).filter((item) => item.role === "user").length;
      for (const item of this.items.slice(this.begin)) {
        turn += item.role === "user";
        const signature = JSON.stringify(item) + turn;
        let known = this.drawn.get(item.id);
        if (known?.signature !== signature) {
          const article = ggufChat.drawMessage(this, item, Math.max(1, turn));
          if (known) known.article.replaceWith(article);
          if (known?.article === focused) setTimeout(() => article.focus());
          this.drawn.set(item.id, (known = { signature, article }));
        }
        if (before.nextElementSibling !== known.article) before.after(known.article);
        before = known.article;
        wanted.add(item.id);
      }
      for (const [id, { article }] of this.drawn) {
        if (wanted.has(id)) continue;
        const lost = article.contains(document.activeElement);
        article.remove();
        this.drawn.delete(id);
        if (lost) (this.articles.at(-1) ?? document.querySelector("#question textarea")).focus();
      }
      this.column.querySelectorAll(".sent").forEach((article) => article.remove());
      this.greeting.hidden = this.items.length > 0 || this.busy;
      this.top.hidden = this.begin === 0;
      this.tabStop();
    }

    get articles() {
      return [...this.column.querySelectorAll(".message[tabindex]")];
    }

    /** Only one message is a Tab stop: the one reached last, or else the last one. */
    tabStop(reached = null) {
      const all = this.articles;
      const stop = reached ?? all.find((article) => article.tabIndex === 0 && article.contains(document.activeElement)) ?? all.at(-1);
      all.forEach((article) => (article.tabIndex = article === stop ? 0 : -1));
    }

    showEarlier() {
      if (!this.begin) return;
      const { scrollHeight, scrollTop } = this.scroller;
      this.begin = Math.max(0, this.begin - PART);
      this.draw();
      this.scroller.scrollTop = scrollTop + this.scroller.scrollHeight - scrollHeight;
    }

    setBusy(busy) {
      this.busy = Boolean(busy);
      this.scroller.classList.toggle("busy", this.busy);
      ggufChat.composer?.setBusy(this.busy);
    }

    /** Draw a question at the click, before the server has it; null: the last one is to be answered. */
    sent(text) {
      if (text !== null) {
        const bubble = create("article", { class: "message user sent" }, create("div", { class: "markdown" }));
        ggufChat.fill(bubble.firstChild, text);
        this.end.before(bubble);
      }
      this.greeting.hidden = true;
      this.end.replaceChildren();
      this.setBusy(true);
      this.wait();
      this.say(null);
      this.toEnd();
    }

    /** Make room at the click for another version of a message, which the server will send. */
    replace(item) {
      const at = this.items.findIndex(({ id }) => id === item.id);
      for (const { id } of this.items.slice(at)) this.drawn.get(id)?.article.remove();
      this.end.replaceChildren();
      this.setBusy(true);
      this.wait();
      this.say(null);
      this.toEnd();
    }

    /** Show where the answer will stand. */
    wait() {
      this.growing ??= create("article", { class: "message bot growing" });
      if (!this.growing.firstChild) this.growing.append(create("div", { class: "waiting" }, create("i"), create("i"), create("i")));
      if (this.growing.nextElementSibling !== this.end) this.end.before(this.growing); // what is inserted again is drawn again
    }

    /** Show an answer as it grows; its own version, when it is gone on from, is hidden meanwhile. */
    grow({ item, status }) {
      if (!this.busy) return;
      if (status) this.say(status);
      if (!item) return;
      this.wait();
      const known = this.drawn.get(item.id);
      if (known) {
        known.article.remove();
        this.drawn.delete(item.id);
      }
      ggufChat.growMessage(this.growing, item);
    }

    /** Show a line below the messages; `kind` is "busy", "note", "error" or "". */
    say(status) {
      const { text = "", kind = "" } = status ?? {};
      let line = this.status.firstChild;
      if (!line) {
        line = create("div", { role: "status", "aria-live": "polite" });
        this.status.append(line);
      }
      line.className = `status ${kind}`;
      if (line.textContent !== text) line.textContent = text;
      this.column.classList.toggle("telling", Boolean(text));
    }

    /** Offer to bring back what an undo hid, or to answer a question that has no answer. */
    offer(redo, answer) {
      const chip = (name) => create("button", { type: "button", class: `chip ${name}`, onclick: () => this.act(name) }, this.words[name]);
      this.end.replaceChildren(...(redo ? [chip("redo")] : []), ...(answer ? [chip("answer")] : []));
    }

    act(name) {
      if (name === "answer") this.sent(null);
      this.trigger(name, {});
    }

    /** Offer for ten seconds to bring back what was deleted. */
    offerUndo({ text, button }) {
      const toast = document.querySelector("#toast");
      const back = create("button", { type: "button", onclick: () => (this.trigger("restore", {}), hide()) }, button);
      const hide = () => {
        if (!toast.contains(back)) return;
        toast.replaceChildren();
        toast.hidden = true;
      };
      toast.replaceChildren(create("span", {}, text), back);
      toast.hidden = false;
      setTimeout(hide, 10_000);
    }

    greet({ title, text, examples }) {
      const ask = (example) => () => ggufChat.composer.send(example);
      this.greeting.replaceChildren(
        create("h2", {}, title),
        create("p", {}, text),
        create("div", { class: "examples" }, ...examples.map((example) => create("button", { type: "button", class: "example", onclick: ask(example) }, example))),
      );
      this.down.setAttribute("aria-label", this.words.down);
      this.scroller.setAttribute("aria-label", this.words.label);
    }
  };
})();
