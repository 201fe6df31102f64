// The box for questions below the messages, and the start of the chat: ggufChat.mount.
(() => {
  const ggufChat = (window.ggufChat ??= {});
  const { create } = ggufChat;

  class Composer {
    constructor(root, list) {
      this.list = list;
      this.form = root.querySelector("#question");
      [this.box, this.submit, this.stop] = ["textarea", ".submit-button", ".stop-button"].map((part) => this.form.querySelector(part));
      this.box.addEventListener("input", () => this.typed());
      this.box.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        this.send();
      });
      this.submit.addEventListener("click", () => this.send());
      this.stop.addEventListener("click", () => list.trigger("stop", {}));
    }

    get text() {
      return this.box.value;
    }

    set text(text) {
      this.box.value = text;
      this.typed();
    }

    typed() {
      ggufChat.grow(this.box);
      window.ggufChatDrafts?.typed(this.box.value);
    }

    setBusy(busy) {
      this.busy = busy;
      this.submit.hidden = busy;
      this.stop.hidden = !busy;
    }

    /** Send the text in the box, or an example; while an answer is written, the text stays in the box. */
    send(example = null) {
      const text = example ?? this.box.value;
      if (!text.trim() || this.busy) return;
      window.ggufChatDrafts?.send(text);
      if (example === null) {
        this.box.value = "";
        ggufChat.grow(this.box);
      }
      this.list.sent(text);
      this.list.trigger("send", { text });
    }

    translate(words) {
      this.box.placeholder = words.placeholder;
      this.box.setAttribute("aria-label", words.ask);
      for (const [button, name] of [[this.submit, words.send], [this.stop, words.stop]]) {
        button.title = name;
        button.setAttribute("aria-label", name);
      }
    }
  }

  /** Start the chat in the component's element; `watch` calls back when the server has set `props.value`. */
  ggufChat.mount = (element, trigger, props, watch) => {
    const list = (ggufChat.list = new ggufChat.MessageList(element.querySelector("#conversation"), trigger));
    const composer = (ggufChat.composer = new Composer(element, list));
    const show = () => {
      const page = props.value;
      if (!page) return;
      if (page.words) {
        ggufChat.words = page.words;
        composer.translate(page.words);
        element.querySelector("#help-corner").innerHTML = page.help;
      }
      const isFirst = !list.opened;
      list.opened = true;
      if (isFirst && list.busy && !page.writing) return list.greet(page.greeting); // a question was quicker than the page
      list.show(page);
      if (page.box !== null && page.box !== undefined) composer.text = page.box;
      ggufChat.showMeter(page.meter);
      if (page.follow) trigger("follow", {});
    };
    watch("value", show);
    show();
    if (matchMedia("(hover: hover)").matches) composer.box.focus();
  };

  /** Show an answer under way. */
  ggufChat.live = (update) => {
    if (!update || !ggufChat.list) return;
    if (update.probabilities) return ggufChat.showProbabilities(update.probabilities);
    ggufChat.list.grow(update);
    if (update.meter) ggufChat.showMeter(update.meter);
  };

  ggufChat.showMeter = (html) => {
    const meter = document.querySelector("#meter");
    if (html && meter && meter.shown !== html) meter.innerHTML = meter.shown = html;
  };

  window.dispatchEvent(new Event("gguf-chat"));
})();
