// What an instrument plays, and how times and pitches are written.
// Shared by the report and the local page, as are roll.js, player.js and sheets.js.
// Each import and each export of theirs is a line of its own: report.py strips them.

const NAMES = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"];

export const pitchName = (pitch) => NAMES[pitch % 12] + (Math.floor(pitch / 12) - 1);

export const clockTime = (seconds, digits) => {
  const scale = 10 ** digits;
  const units = Math.round(Math.max(0, seconds) * scale);
  const whole = Math.floor(units / scale);
  const hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  const rest = String(whole % 60).padStart(2, "0");
  const fraction = digits ? "." + String(units % scale).padStart(digits, "0") : "";
  const head = hours ? hours + ":" + String(minutes).padStart(2, "0") : minutes;
  return `${head}:${rest}${fraction}`;
};

// Makes an element; names with a dash are attributes, the others properties.
export const element = (tag, properties, ...children) => {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.includes("-") || name === "role") made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
};

// Notes lie flat in one array: start, end (seconds), pitch, velocity; by start.
export const FIELDS = 4;

export class Track {
  constructor({ name, program, is_drum: isDrum, colour, notes = [] }) {
    Object.assign(this, { name, program, isDrum, colour, notes });
    Object.assign(this, { folded: false, muted: false, solo: false, silent: false });
    this.low = 127;
    this.high = 0;
    this.longest = 0;
    this.end = 0;
    for (let i = 0; i < notes.length; i += FIELDS) this.measure(...notes.slice(i, i + 3));
  }

  get count() { return this.notes.length / FIELDS; }

  measure(start, end, pitch) {
    this.longest = Math.max(this.longest, end - start);
    this.end = Math.max(this.end, end);
    this.low = Math.min(this.low, pitch);
    this.high = Math.max(this.high, pitch);
  }

  // Adds a note at its place; returns its number.
  add(start, end, pitch, velocity) {
    const n = this.lowerBound(start);
    this.notes.splice(n * FIELDS, 0, start, end, pitch, velocity);
    this.measure(start, end, pitch);
    return n;
  }

  // Number of the first note that begins at or after a time.
  lowerBound(time) {
    let low = 0, high = this.count;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.notes[middle * FIELDS] < time) low = middle + 1; else high = middle;
    }
    return low;
  }
}

// Which tracks are not heard: muted ones, and all others where some are solo.
export const findSilent = (tracks) => {
  const solo = tracks.some((track) => track.solo);
  for (const track of tracks) track.silent = track.muted || (solo && !track.solo);
};
