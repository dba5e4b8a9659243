// Runs in a page before its own scripts. The page's security policy forbids waiting for
// conditions in JavaScript, so the tests ask these from outside.
window.tests = {
  // What the list of recordings has said, one after another.
  seen: [],
  contexts: [],
  // Analysers of what is heard of the "notes" and of the "recording".
  taps: {},

  drop(data, name) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], name));
    for (const type of ["dragover", "drop"]) {
      document.body.dispatchEvent(
        new DragEvent(type, { dataTransfer, bubbles: true, cancelable: true }));
    }
  },

  peak(what) {
    const samples = new Float32Array(16384);
    this.taps[what].getFloatTimeDomainData(samples);
    return Math.max(...samples.map(Math.abs));
  },

  // Times in seconds: of the recording, of the audio clock, and what the page shows.
  times() {
    const recording = document.querySelector("#recording").currentTime;
    const [minutes, rest] = document.querySelector("#clock").textContent.split(" ")[0].split(":");
    return [recording, this.contexts[0]?.currentTime, 60 * minutes + Number(rest)];
  },

  // The name of what has the focus.
  focused() {
    const at = document.activeElement;
    const style = getComputedStyle(at.closest("label") ?? at);
    if (style.outlineStyle === "none") return "nothing to be seen";
    return at.getAttribute("aria-label") ?? at.labels?.[0]?.textContent.trim() ?? at.textContent.trim();
  },

  // Pixels in each lane of the piano roll that are neither ground nor lines.
  drawn() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => parseInt(style.getPropertyValue(`--${name}`).trim().slice(1), 16);
    const ground = new Set(["ground", "line", "grid", "key"].map(colour));
    return [...document.querySelectorAll(".lane:not(.axis) .view canvas")].map((canvas) => {
      const pen = canvas.getContext("2d");
      const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let i = 0; i < data.length; i += 4) {
        count += !ground.has(data[i] << 16 | data[i + 1] << 8 | data[i + 2]);
      }
      return count;
    });
  },

  // Text whose contrast to its background is less than WCAG's level AA.
  faint() {
    const canvas = new OffscreenCanvas(1, 1);
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    const rgba = (colour) => {
      pen.clearRect(0, 0, 1, 1);
      pen.fillStyle = colour;
      pen.fillRect(0, 0, 1, 1);
      return [...pen.getImageData(0, 0, 1, 1).data];
    };
    const light = (parts) => parts.slice(0, 3).map((part) => part / 255).map((part) =>
      part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
      .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const colour = rgba(getComputedStyle(at).backgroundColor);
        if (colour[3] === 255) return colour;
      }
      return rgba("Canvas");
    };
    const faint = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const element = walker.currentNode.parentElement;
      if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
      if (element.closest("svg, button:disabled, script, style")) continue;
      const a = light(rgba(getComputedStyle(element).color)), b = light(behind(element));
      const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (contrast < 4.5) faint.push(`${element.textContent}: ${contrast.toFixed(2)}`);
    }
    return faint;
  },
};

new MutationObserver(() => {
  for (const state of document.querySelectorAll(".state")) {
    if (tests.seen.at(-1) !== state.textContent) tests.seen.push(state.textContent);
  }
}).observe(document, { subtree: true, childList: true, characterData: true });

const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (target, ...rest) {
  if (target instanceof AudioDestinationNode) {
    const tap = this.context.createAnalyser();
    tap.fftSize = 16384;
    connect.call(this, tap);
    const isNotes = this instanceof DynamicsCompressorNode;
    tests.taps[isNotes ? "notes" : "recording"] = tap;
    if (isNotes) tests.contexts.push(this.context);
  }
  return connect.call(this, target, ...rest);
};
