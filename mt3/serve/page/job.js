// One recording: handed to the program, followed while it is transcribed, its notes.
import { Track } from "./tracks.js";

const MOST_LOST = 5; // times that the connection may break in a row

const NO_ANSWER = "The program mt3 serve does not answer. Does it still run?";

// Asks the program. Throws an Error whose message can be shown.
export const request = async (address, settings = {}) => {
  let answer;
  try {
    answer = await fetch(address, settings);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(NO_ANSWER);
  }
  if (answer.ok) return answer;
  let reason;
  try {
    reason = (await answer.json()).error;
  } catch {
    // Not one of the program's own answers.
  }
  throw new Error(reason || `The program refused (${answer.status} ${answer.statusText}).`);
};

export class Job {
  // `options`: of the query. `about`: what the program says of itself. `changed(job)` is
  // called when the state is another, or the progress; `played(job, notes)` with new
  // notes, as [track, [start, end, pitch, velocity]], and with null when all are others.
  constructor(file, options, about, { changed, played }) {
    Object.assign(this, { file, options, about, changed, played });
    this.name = file.name;
    this.address = URL.createObjectURL(file);
    this.reset();
  }

  reset() {
    Object.assign(this, {
      id: null, state: "waiting", position: null, seconds_done: 0, seconds_total: null,
      notes: 0, error: null, warnings: [], formats: [], frontier: null, score: null,
    });
    this.tracks = new Map();
    this.stopping = new AbortController();
  }

  get isActive() { return ["sending", "queued", "running"].includes(this.state); }

  get end() { return Math.max(0, ...[...this.tracks.values()].map((track) => track.end)); }

  // Tracks by program, drums last.
  get ordered() {
    return [...this.tracks.values()].sort((a, b) => a.isDrum - b.isDrum || a.program - b.program);
  }

  set(state, error = null) {
    Object.assign(this, { state, error });
    this.changed(this);
  }

  // Transcribes; ends when that has ended in one way or other.
  async run() {
    const body = new FormData();
    body.append("file", this.file);
    this.set("sending");
    try {
      const query = new URLSearchParams(this.options);
      const { signal } = this.stopping;
      const answer = await request(`/jobs?${query}`, { method: "POST", body, signal });
      this.take(await answer.json());
      signal.throwIfAborted();
      await this.listen();
      if (this.state === "done") await this.takeFinalNotes();
    } catch (error) {
      if (this.state !== "cancelled") this.set("failed", error.message);
    }
  }

  take(record) {
    if (this.state === "cancelled") return;
    // The file's name may have been changed on its way.
    Object.assign(this, record, { name: this.name });
    this.changed(this);
  }

  listen() {
    return new Promise((resolve, reject) => {
      const events = new EventSource(`/jobs/${this.id}/events`);
      const end = (action, value) => { events.close(); action(value); };
      let lost = 0;
      // Whoever connects again is told everything again.
      events.addEventListener("open", () => { lost = 0; this.clear(); });
      events.addEventListener("progress", (event) => this.take(JSON.parse(event.data)));
      events.addEventListener("notes", (event) => this.takeNotes(JSON.parse(event.data)));
      for (const name of ["done", "failed", "cancelled"]) {
        events.addEventListener(name, (event) => {
          this.take(JSON.parse(event.data));
          end(resolve);
        });
      }
      events.addEventListener("error", () => {
        if (events.readyState === EventSource.CLOSED) {
          end(reject, new Error("The program no longer knows this recording."));
        } else if (++lost > MOST_LOST) {
          end(reject, new Error(NO_ANSWER));
        }
      });
      this.stopping.signal.addEventListener("abort", () => end(resolve));
    });
  }

  clear() {
    if (!this.tracks.size) return;
    this.tracks.clear();
    this.played(this, null);
  }

  track({ program, is_drum, instrument }) {
    const key = is_drum ? "drums" : program;
    if (!this.tracks.has(key)) {
      const { palette, drum_colour } = this.about;
      const taken = [...this.tracks.values()].filter((track) => !track.isDrum).length;
      const colour = is_drum ? drum_colour : palette[taken % palette.length];
      this.tracks.set(key, new Track({ name: instrument, program, is_drum, colour }));
    }
    return this.tracks.get(key);
  }

  takeNotes({ end_time, notes }) {
    this.frontier = end_time;
    this.played(this, notes.map((note) =>
      [this.track(note), [note.start_time, note.end_time, note.pitch, note.velocity]]));
  }

  // The notes that files will have: those that came were not cleaned up yet.
  async takeFinalNotes() {
    const answer = await request(`/jobs/${this.id}/result?format=json`);
    const { notes } = await answer.json();
    const old = this.tracks;
    this.tracks = new Map();
    for (const note of notes) {
      this.track(note).add(note.start_time, note.end_time, note.pitch, note.velocity);
    }
    for (const [key, { colour, folded, muted, solo, silent }] of old) {
      const track = this.tracks.get(key);
      if (track) Object.assign(track, { colour, folded, muted, solo, silent });
    }
    this.frontier = null;
    this.notes = notes.length;
    this.played(this, null);
    this.changed(this);
  }

  // Stops it, and lets the program forget it.
  forget() {
    this.stopping.abort();
    if (!this.id) return;
    fetch(`/jobs/${this.id}`, { method: "DELETE", keepalive: true }).catch(() => {});
    this.id = null;
  }

  cancel() {
    this.forget();
    this.frontier = null;
    this.set("cancelled");
  }

  // Tells the program that the result is still wanted.
  async keep() {
    if (this.state !== "done") return;
    try {
      await request(`/jobs/${this.id}`);
    } catch (error) {
      if (error.message !== NO_ANSWER) this.set("forgotten");
    }
  }
}
