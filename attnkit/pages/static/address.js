// A state as an address: #attention&p.attention.view=lines&p.attention.layer=2
// TensorBoard reserves this prefix for plugins.

// How a value is written: `write` returns texts, one per part of the address; `read` gets all of
// them and returns the value, or undefined if none is valid, since an address is untrusted.
export const text = {
  write: (value) => (value === null || value === "" ? [] : [value]),
  read: (texts) => texts[0],
};

export const whole = {
  write: (value) => (value === null ? [] : [value]),
  read: (texts) => texts.filter(isWhole).map(Number)[0],
};

export const flag = {
  write: (value) => (value ? ["1"] : []),
  read: (texts) => texts[0] === "1",
};

// A list of names; an empty list is a choice, null is not.
export const names = {
  write: (value) => (value === null ? [] : value.length ? value : [""]),
  read: (texts) => [...new Set(texts.filter(Boolean))],
};

export const wholes = {
  write: (value) => value,
  read: (texts) => texts.filter(isWhole).map(Number),
};

export function oneOf(choices) {
  return {
    write: (value) => [value],
    read: (texts) => (choices.includes(texts[0]) ? texts[0] : undefined),
  };
}

export class Address {
  // `kinds`: key -> one of the objects above.
  constructor(plugin, kinds) {
    this.plugin = plugin;
    this.kinds = kinds;
    this.prefix = `p.${plugin}.`;
  }

  toHash(values) {
    const parts = Object.entries(this.kinds).flatMap(([key, kind]) =>
      kind.write(values[key]).map((one) => `${this.prefix}${key}=${encodeURIComponent(one)}`),
    );
    return [this.plugin, ...parts].join("&");
  }

  // The page's part of an address; "" if there is none.
  pluginPart(hash) {
    return hash
      .split("&")
      .filter((part) => part.startsWith(this.prefix))
      .join("&");
  }

  fromHash(hash) {
    const entries = hash
      .split("&")
      .filter((part) => part.startsWith(this.prefix) && part.includes("="))
      .map((part) => [part.slice(this.prefix.length, part.indexOf("=")), decode(part)]);
    const values = {};
    for (const [key, kind] of Object.entries(this.kinds)) {
      const texts = entries.filter(([name]) => name === key).map(([, value]) => value);
      const value = texts.length ? kind.read(texts) : undefined;
      if (value !== undefined) values[key] = value;
    }
    return values;
  }
}

function isWhole(text) {
  return /^\d{1,15}$/.test(text);
}

function decode(part) {
  try {
    return decodeURIComponent(part.slice(part.indexOf("=") + 1));
  } catch {
    return "";
  }
}
