// Restores the settings stored in this browser when the page opens, without a request to the server.
// `first` describes the page's fields: see settings_panel.py. `stored` is untrusted. `shown` are the values in the page,
// in the order of `first.fields`. Returns the object to store (undefined: no change), the values, and their preset.
(first, stored, ...shown) => {
  const kept = ([1, first.version].includes(stored?.version) && stored.values) || {};
  // Version 1 stored every value with the first change, and 512 was this one's default.
  const unchosen = (name, value) => stored.version === 1 && name === "max_tokens" && value === 512;
  const within = (field, value) => field.low <= value && value <= field.high;
  const lines = (text) => text.split("\n").filter(Boolean).length;
  const isNumber = (field, value) => Number.isFinite(value) && (!field.whole || Number.isInteger(value));
  const isUsable = {
    slider: isNumber, // clamped below: the stored value may come from a model with a wider range
    number: (field, value) => isNumber(field, value) && within(field, value),
    text: (field, value) => typeof value === "string" && value.length <= field.longest && lines(value) <= field.lines,
    choice: (field, value) => field.choices.includes(value),
  };
  // Keep a value that the user changed before the restore, on a slow page.
  const byHand = first.fields.map((field, i) => (shown[i] ?? "") !== (field.value ?? ""));
  const values = first.fields.map((field, i) => {
    const value = kept[field.name];
    if (byHand[i] || !isUsable[field.kind](field, value) || unchosen(field.name, value)) return shown[i];
    return field.kind === "slider" ? Math.min(Math.max(value, field.low), field.high) : value;
  });
  const named = Object.fromEntries(first.fields.map((field, i) => [field.name, values[i]]));
  const are = (preset) => Object.entries(preset).every(([name, value]) => named[name] === value);
  const preset = Object.keys(first.presets).find((name) => are(first.presets[name])) ?? null;
  const memory = byHand.includes(true) ? { version: first.version, values: named } : undefined;
  return [memory, ...values, preset];
}
