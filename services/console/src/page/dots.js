// Dots that move as events flow. On a canvas above the drawing: hundreds of moving elements would stall the page. A dot is
// not an event; how many there are says how much passes, and where nothing passes nothing moves.

const SPEED = 110; // units of the map per second
const MOST = 900;
const FRAME = 1000 / 40;
const still = matchMedia("(prefers-reduced-motion: reduce)");

export class Dots {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.roads = [];
    this.dots = [];
    this.view = { x: 0, y: 0, scale: 1 };
    this.last = 0;
    this.wanted = false;
    this.colour = "#b8691a";
  }

  // `points` of each road with the way from its beginning to each of them.
  setRoads(lines) {
    this.roads = lines.map((points) => {
      const way = [0];
      for (let at = 1; at < points.length; at += 1) {
        way.push(way[at - 1] + Math.hypot(points[at][0] - points[at - 1][0], points[at][1] - points[at - 1][1]));
      }
      return { points, way, length: way.at(-1), every: 0, due: Math.random() };
    });
    this.dots = [];
  }

  // Events per second for each road. Ten times as much is not ten times as many dots.
  setRates(rates) {
    let all = 0;
    const perSecond = rates.map((rate) => (rate <= 0 ? 0 : rate <= 2 ? rate : 2 + 2.2 * Math.log10(rate / 2)));
    perSecond.forEach((count, at) => (all += count * ((this.roads[at]?.length ?? 0) / SPEED)));
    const share = Math.min(1, MOST / Math.max(1, all));
    this.roads.forEach((road, at) => (road.every = (perSecond[at] ?? 0) * share));
  }

  run(wanted) {
    this.wanted = wanted && !still.matches;
    if (this.wanted && !this.frame) this.frame = requestAnimationFrame((now) => this.step(now));
    if (!this.wanted) this.clear();
  }

  clear() {
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  step(now) {
    this.frame = null;
    if (!this.wanted) return;
    this.frame = requestAnimationFrame((next) => this.step(next));
    if (now - this.last < FRAME) return;
    const seconds = Math.min(0.2, (now - this.last) / 1000);
    this.last = now;
    for (const road of this.roads) {
      road.due += road.every * seconds;
      while (road.due >= 1) {
        road.due -= 1;
        if (this.dots.length < MOST * 1.2) this.dots.push({ road, at: 0, piece: 0 });
      }
    }
    for (const dot of this.dots) dot.at += SPEED * seconds;
    this.dots = this.dots.filter((dot) => dot.at < dot.road.length);
    this.paint();
  }

  paint() {
    const { context, view } = this;
    const ratio = this.canvas.width / Math.max(1, this.canvas.clientWidth);
    this.clear();
    context.setTransform(view.scale * ratio, 0, 0, view.scale * ratio, view.x * ratio, view.y * ratio);
    context.fillStyle = this.colour;
    context.beginPath();
    const radius = Math.min(5, Math.max(2.6, 2.1 / view.scale));
    for (const dot of this.dots) {
      const { points, way } = dot.road;
      while (way[dot.piece + 1] < dot.at) dot.piece += 1;
      const [from, to] = [points[dot.piece], points[dot.piece + 1]];
      const part = (dot.at - way[dot.piece]) / (way[dot.piece + 1] - way[dot.piece] || 1);
      const [x, y] = [from[0] + (to[0] - from[0]) * part, from[1] + (to[1] - from[1]) * part];
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, 7);
    }
    context.fill();
  }

  resize() {
    const ratio = Math.min(2, devicePixelRatio || 1);
    this.canvas.width = Math.round(this.canvas.clientWidth * ratio);
    this.canvas.height = Math.round(this.canvas.clientHeight * ratio);
  }
}
