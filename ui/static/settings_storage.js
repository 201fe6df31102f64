// Puts the settings that this browser remembers into the page as it opens, without a word to the server.
// `first` is how the page was built: see remembered.py. `stored` may be anything. `shown` are the values in the page,
// in the order of `first.fields`. Gives what is to be stored (undefined: what is), the values, and their preset.
(first, stored, ...shown) => {
  const kept = (stored?.version === first.version && stored.values) || {};
  const within = (field, value) => field.low <= value && value <= field.high;
  const lines = (text) => text.split("\n").filter(Boolean).length;
  const isNumber = (field, value) => Number.isFinite(value) && (!field.whole || Number.isInteger(value));
  const isUsable = {
    slider: isNumber, // another model's may go further: the nearest end is meant
    number: (field, value) => isNumber(field, value) && within(field, value),
    text: (field, value) => typeof value === "string" && value.length <= field.longest && lines(value) <= field.lines,
    choice: (field, value) => field.choices.includes(value),
  };
  // Who is quicker than a slow page has changed a value before it is restored: that one stays.
  const byHand = first.fields.map((field, i) => (shown[i] ?? "") !== (field.value ?? ""));
  const values = first.fields.map((field, i) => {
    const value = kept[field.name];
    if (byHand[i] || !isUsable[field.kind](field, value)) return shown[i];
    return field.kind === "slider" ? Math.min(Math.max(value, field.low), field.high) : value;
  });
  const named = Object.fromEntries(first.fields.map((field, i) => [field.name, values[i]]));
  const are = (preset) => Object.entries(preset).every(([name, value]) => named[name] === value);
  const preset = Object.keys(first.presets).find((name) => are(first.presets[name])) ?? null;
  const memory = byHand.includes(true) ? { version: first.version, values: named } : undefined;
  return [memory, ...values, preset];
}
