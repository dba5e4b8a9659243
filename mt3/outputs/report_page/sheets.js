// The score: one page at a time; the bar at the playhead is marked.
import { element } from "./tracks.js";

const MOST_PIXELS_BESIDE = 20; // from a bar, for a click to mean it

export class Sheets {
  // `place`: element to fill. `pages`: `bars`, how many are on it, and `sheet`, an
  // element, or `svg`, text that becomes one when the page is first seen. `bars`: when
  // each begins, in seconds. `seek(seconds)` is called when the user clicks into a bar.
  constructor(place, { pages, bars, seek }) {
    Object.assign(this, { pages, bars, page: 0, marked: null, bar: -1 });
    const button = (text, step) => {
      const made = element("button", { type: "button", textContent: text });
      made.addEventListener("click", () => this.turn(this.page + step));
      return made;
    };
    this.previous = button("Previous page", -1);
    this.next = button("Next page", 1);
    this.status = element("span", { role: "status" });
    const paper = element("div", {});
    this.paper = paper;
    place.replaceChildren(element("div", { className: "tools" },
      element("span", { className: "group" }, this.previous, this.next), this.status), paper);
    paper.addEventListener("click", ({ clientX, clientY }) => {
      // A bar is hit between its lines, too.
      const distance = (measure) => {
        const { left, right, top, bottom } = measure.getBoundingClientRect();
        return Math.hypot(Math.max(left - clientX, 0, clientX - right),
          Math.max(top - clientY, 0, clientY - bottom));
      };
      const distances = this.measures().map(distance), nearest = Math.min(...distances);
      if (nearest > MOST_PIXELS_BESIDE) return;
      seek(this.bars[this.before(this.page) + distances.indexOf(nearest)]);
    });
    this.turn(0);
  }

  // How many bars stand on the pages before one.
  before(page) {
    return this.pages.slice(0, page).reduce((sum, { bars }) => sum + bars, 0);
  }

  measures() { return [...this.paper.querySelectorAll(".measure")]; }

  turn(wanted) {
    this.page = Math.min(Math.max(0, wanted), this.pages.length - 1);
    const page = this.pages[this.page];
    page.sheet ??= this.draw(page.svg);
    page.sheet.setAttribute("aria-label", `Score, page ${this.page + 1}`);
    this.paper.replaceChildren(page.sheet);
    this.status.textContent = `Page ${this.page + 1} of ${this.pages.length}`;
    this.previous.disabled = this.page === 0;
    this.next.disabled = this.page >= this.pages.length - 1;
    this.mark();
  }

  // A page of an SVG text. Its style elements become style sheets of the document: the
  // local page's security policy allows none in the markup.
  draw(text) {
    const markup = text.replace(/<style[^>]*>([^<]*)<\/style>/g, (_, rules) => {
      const sheet = new CSSStyleSheet(); // It names the page's id: no other is met.
      sheet.replaceSync(rules);
      document.adoptedStyleSheets.push(sheet);
      return "";
    });
    const { documentElement: svg } = new DOMParser().parseFromString(markup, "image/svg+xml");
    return element("div", { className: "sheet", role: "img" }, document.importNode(svg, true));
  }

  mark() {
    this.marked?.classList.remove("now");
    this.marked = this.measures()[this.bar - this.before(this.page)] ?? null;
    this.marked?.classList.add("now");
  }

  // Marks the bar at a time, and turns the page when another bar begins.
  follow(time) {
    let bar = this.bars.length - 1;
    while (bar > 0 && this.bars[bar] > time) bar--;
    if (bar === this.bar) return;
    this.bar = bar;
    let first = 0;
    this.turn(this.pages.findIndex(({ bars }) => (first += bars) > bar));
  }
}
