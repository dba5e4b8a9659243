// Plays the notes, and a recording beside them, on one clock.
import { FIELDS } from "./tracks.js";

const LOOK_AHEAD = 0.4; // seconds of notes handed to the audio clock at a time
const MOST_DRIFT = 0.02; // seconds that notes and recording may differ
// By General MIDI family: the wave of a tone, and which families' tones die away.
const WAVES = ["triangle", "sine", "sine", "triangle", "triangle", "sawtooth", "sawtooth",
  "sawtooth", "square", "sine", "square", "triangle", "triangle", "triangle", "triangle", "triangle"];
const FADING = new Set([0, 1, 3, 4, 13, 14, 15]);
const LOUDNESS = { sine: 0.16, triangle: 0.16, square: 0.05, sawtooth: 0.06 };

export class Player {
  // `kit`: as of a roll. `changed(playing)` is called at each start and stop,
  // `moved(seconds)` while time goes by, `failed()` when the recording can't be played.
  constructor(kit, { changed, moved, failed = () => {} }) {
    Object.assign(this, { kit, changed, moved, failed, tracks: [], duration: 0.1, position: 0 });
    this.playing = false;
    this.recording = null; // an <audio> element, or null
    this.balance = 1; // 0 is the recording alone, 1 the notes alone
    this.sounding = new Set();
    this.turn = 0;
  }

  // Makes the nodes that last; browsers want a user's act before.
  prepare() {
    if (this.audio) return;
    this.audio = new AudioContext();
    const limiter = this.audio.createDynamicsCompressor();
    limiter.connect(this.audio.destination);
    this.notesLevel = this.audio.createGain();
    this.notesLevel.connect(limiter);
    this.recordingLevel = this.audio.createGain();
    this.recordingLevel.connect(this.audio.destination);
    this.noise = this.audio.createBuffer(1, this.audio.sampleRate, this.audio.sampleRate);
    const samples = this.noise.getChannelData(0);
    for (let i = 0; i < samples.length; i++) samples[i] = Math.random() * 2 - 1;
  }

  // Plays this element beside the notes from now on; null for the notes alone.
  setRecording(recording) {
    this.pause();
    this.source?.disconnect();
    this.source = null;
    this.recording = recording;
    recording?.addEventListener("error", () => {
      if (this.recording !== recording) return;
      this.recording = null;
      this.mix();
      this.failed();
    });
  }

  setTracks(tracks) {
    for (const track of this.tracks) {
      if (tracks.includes(track)) continue;
      track.gain?.disconnect();
      track.gain = null;
    }
    this.tracks = tracks;
    if (this.playing) this.mix();
  }

  // Adds a note to a track, also while it plays.
  addNote(track, note) {
    if (track.add(...note) < track.next) track.next++;
  }

  // Sets all levels: of equal power between recording and notes, none where silent.
  mix() {
    if (!this.audio) return;
    const balance = this.recording ? this.balance : 1;
    this.recordingLevel.gain.value = Math.cos(balance * Math.PI / 2);
    this.notesLevel.gain.value = Math.sin(balance * Math.PI / 2);
    for (const track of this.tracks) {
      if (!track.gain) {
        track.gain = this.audio.createGain();
        track.gain.connect(this.notesLevel);
        track.next = track.lowerBound(this.position);
      }
      track.gain.gain.value = track.silent ? 0 : 1;
    }
  }

  async play() {
    if (this.playing) return;
    const turn = ++this.turn;
    this.playing = true;
    this.changed(true);
    this.prepare();
    await this.audio.resume();
    if (this.position >= this.duration - 0.05) this.position = 0;
    if (this.recording) await this.startRecording(turn);
    // Paused, or moved elsewhere, in the meantime.
    if (turn !== this.turn) return;
    const recorded = this.isRecordingPlaying();
    this.origin = this.audio.currentTime - (recorded ? this.recording.currentTime : this.position - 0.1);
    this.mix();
    for (const track of this.tracks) track.next = track.lowerBound(this.position);
    this.timer = setInterval(() => this.schedule(), 100);
    this.schedule();
    requestAnimationFrame(() => this.follow());
  }

  async startRecording(turn) {
    const recording = this.recording;
    if (!this.source) {
      this.source = this.audio.createMediaElementSource(recording);
      this.source.connect(this.recordingLevel);
    }
    // Notes may ring on after its end.
    if (recording.duration <= this.position) return;
    recording.currentTime = this.position;
    try {
      await recording.play();
    } catch {
      // A pause came before, or the element's error event tells of it.
    }
    if (turn !== this.turn && !this.playing) recording.pause();
  }

  isRecordingPlaying() {
    return Boolean(this.recording && !this.recording.paused && !this.recording.ended);
  }

  pause() {
    if (!this.playing) return;
    this.halt();
    this.changed(false);
  }

  halt() {
    this.turn++;
    this.playing = false;
    clearInterval(this.timer);
    this.recording?.pause();
    for (const source of this.sounding) {
      source.stop();
      source.disconnect();
    }
    this.sounding.clear();
  }

  toggle() {
    if (this.playing) this.pause(); else this.play();
  }

  seek(time) {
    const playing = this.playing;
    if (playing) this.halt();
    this.position = Math.min(Math.max(0, time), this.duration);
    this.moved(this.position);
    if (playing) this.play();
  }

  // What a key does, in the piano roll or on the page; tells whether it does something.
  press(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 1 : 5;
    const actions = {
      " ": () => this.toggle(),
      ArrowLeft: () => this.seek(this.position - step),
      ArrowRight: () => this.seek(this.position + step),
      Home: () => this.seek(0),
      End: () => this.seek(this.duration),
    };
    if (!Object.hasOwn(actions, event.key)) return;
    event.preventDefault();
    actions[event.key]();
  }

  now() { return Math.max(0, this.audio.currentTime - this.origin); }

  schedule() {
    if (this.isRecordingPlaying()) {
      const origin = this.audio.currentTime - this.recording.currentTime;
      if (Math.abs(origin - this.origin) > MOST_DRIFT) this.origin = origin;
    }
    const until = this.now() + LOOK_AHEAD;
    for (const track of this.tracks) {
      const { notes } = track;
      while (track.next < track.count && notes[track.next * FIELDS] < until) {
        const i = FIELDS * track.next++;
        const start = Math.max(this.audio.currentTime, notes[i] + this.origin);
        if (track.isDrum) this.hit(track, start, notes[i + 2], notes[i + 3]);
        else this.tone(track, start, notes[i + 1] - notes[i], notes[i + 2], notes[i + 3]);
      }
    }
  }

  start(source, start, stop) {
    source.start(start);
    source.stop(stop);
    this.sounding.add(source);
    source.addEventListener("ended", () => this.sounding.delete(source));
  }

  tone(track, start, length, pitch, velocity) {
    const family = track.program >> 3, level = this.audio.createGain();
    const wave = WAVES[family], peak = LOUDNESS[wave] * (0.3 + 0.7 * velocity / 127);
    const end = start + Math.max(0.06, length);
    level.gain.setValueAtTime(0, start);
    level.gain.linearRampToValueAtTime(peak, start + 0.012);
    if (FADING.has(family)) level.gain.setTargetAtTime(0, start + 0.012, 0.6);
    level.gain.setTargetAtTime(0, end, 0.03);
    const source = this.audio.createOscillator();
    source.type = wave;
    source.frequency.value = 440 * 2 ** ((pitch - 69) / 12);
    source.connect(level).connect(track.gain);
    this.start(source, start, end + 0.2);
  }

  hit(track, start, pitch, velocity) {
    const { audio, noise } = this, lane = this.kit.drum_lane_of[pitch];
    const level = audio.createGain(), peak = 0.5 * (0.3 + 0.7 * velocity / 127);
    const length = [0.14, 0.09, 0.15, 0.03, 0.25, 0.06][lane];
    level.gain.setValueAtTime(peak * (lane === 0 ? 1.4 : 0.5), start);
    level.gain.setTargetAtTime(0, start, length);
    level.connect(track.gain);
    let source;
    if (lane === 0 || lane === 2) {
      source = audio.createOscillator();
      const base = lane === 0 ? 48 : 60 * 2 ** ((pitch - 36) / 12);
      source.frequency.setValueAtTime(base * 2.2, start);
      source.frequency.exponentialRampToValueAtTime(base, start + 0.08);
      source.connect(level);
    } else {
      source = audio.createBufferSource();
      source.buffer = noise;
      const filter = audio.createBiquadFilter();
      filter.type = lane === 1 ? "bandpass" : "highpass";
      filter.frequency.value = lane === 1 ? 1500 : lane === 5 ? 2500 : 6500;
      source.connect(filter).connect(level);
    }
    this.start(source, start, start + Math.min(0.95, 6 * length));
  }

  follow() {
    if (!this.playing) return;
    const turn = this.turn;
    this.position = Math.min(this.now(), this.duration);
    if (this.position >= this.duration) this.pause();
    else requestAnimationFrame(() => { if (turn === this.turn) this.follow(); });
    this.moved(this.position);
  }
}
