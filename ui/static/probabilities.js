// The probabilities of an answer's tokens, in place of its text; choosing another token goes on from there.
(() => {
  const ggufChat = (window.ggufChat ??= {});
  const { create } = ggufChat;
  const SHADES = [0.9, 0.5, 0.2]; // a token at least so probable has the shade of its place here
  const percent = (share) => new Intl.NumberFormat(document.documentElement.lang || "en", { style: "percent", maximumSignificantDigits: share < 0.1 ? 1 : 2 }).format(share);
  const shade = (probability) => SHADES.filter((least) => probability < least).length;
  const visible = (text) => text.replace(/\n/g, "↵").replace(/\t/g, "⇥");

  /** Ask the server for an answer's tokens, and show meanwhile that the model reads. */
  ggufChat.askProbabilities = (list, item, article) => {
    const { words } = ggufChat;
    const hide = () => {
      if (!panel.querySelector(".tokens")) list.trigger("probabilities", { node: item.id, close: true });
      panel.remove();
      article.classList.remove("scored");
      article.focus();
    };
    article.querySelector(".probabilities")?.remove();
    const panel = create("div", { class: "probabilities" }, create("div", { role: "status" }, words.reading), create("button", { type: "button", class: "chip", onclick: hide }, words.hide));
    article.querySelector(":scope > .markdown").after(panel);
    list.trigger("probabilities", { node: item.id });
  };

  /** Show what the server has found: `tokens` and a `note`, or an `error`. */
  ggufChat.showProbabilities = ({ node, tokens, note, error }) => {
    const { list } = ggufChat;
    const article = list.drawn.get(node)?.article;
    const panel = article?.querySelector(".probabilities");
    if (!panel) return;
    const told = panel.querySelector("[role=status]");
    told.className = error ? "error" : "";
    told.textContent = error ?? note;
    if (error) return;
    let before = "";
    const parts = tokens.map((token) => {
      const text = before;
      before += token.text;
      const choose = ({ currentTarget }) => offer(list, article, currentTarget, token, text);
      return create("span", { role: "button", tabindex: -1, class: `token p${shade(token.probability)}`, "aria-label": `${visible(token.text)} ${percent(token.probability)}`, title: percent(token.probability), onclick: choose }, token.text || "·");
    });
    const text = create("div", { class: "tokens", role: "toolbar", "aria-label": ggufChat.words.probabilities }, ...parts);
    told.after(legend(), text);
    article.classList.add("scored");
    if (parts[0]) parts[0].tabIndex = 0;
  };

  const legend = () => {
    const names = [...SHADES.map((least) => `≥ ${percent(least)}`), `< ${percent(SHADES.at(-1))}`];
    return create("div", { class: "legend", "aria-hidden": "true" }, ...names.map((name, at) => create("span", { class: `token p${at}` }, name)));
  };

  /** List the likeliest tokens of a place; the one that stands there is marked. */
  const offer = (list, article, place, token, before) => {
    const { words } = ggufChat;
    const fork = (text) => () => {
      if (list.busy) return;
      list.replace(article.item);
      list.trigger("fork", { node: article.item.id, text: before + text });
    };
    const entry = ({ text, probability, part }) => {
      const isHere = !part && text === token.text;
      const label = [create("span", {}, part ? `${text} (${words.part})` : visible(text)), create("span", {}, percent(probability))];
      return create("button", { type: "button", role: "menuitem", "aria-current": isHere && "true", "aria-disabled": (part || !token.whole) && "true", onclick: part || !token.whole ? () => {} : ggufChat.closing(fork(text)) }, ...label);
    };
    const others = token.choices.some(({ text, part }) => !part && text === token.text) ? token.choices : [...token.choices, { ...token, part: false }];
    ggufChat.openMenu(place, words.fork, others.map(entry));
  };

  document.addEventListener("keydown", (event) => {
    const place = event.target.closest?.(".probabilities .tokens > .token");
    if (!place || event.ctrlKey || event.metaKey || event.altKey) return;
    const all = [...place.parentElement.children], at = all.indexOf(place);
    const to = { ArrowRight: all[at + 1], ArrowLeft: all[at - 1], Home: all[0], End: all.at(-1) }[event.key];
    if (event.key === "Enter" || event.key === " ") place.click();
    else if (event.key === "Escape") place.closest(".message").focus();
    else if (to) {
      place.tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    } else if (!event.key.startsWith("Arrow")) return;
    event.preventDefault();
    event.stopPropagation();
  }, true);
})();
