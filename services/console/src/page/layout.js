// Where everything goes, worked out beside the page: a graph of hundreds of functions takes a moment. Parts that are not
// connected are laid out each for itself and then packed like books on shelves, as wide as the screen is.

import dagre from "./dagre.js";

const GAP = 56;

// Which nodes hang together.
function components({ nodes, edges }) {
  const parent = new Map(nodes.map((node) => [node.id, node.id]));
  const root = (id) => {
    while (parent.get(id) !== id) {
      parent.set(id, parent.get(parent.get(id)));
      id = parent.get(id);
    }
    return id;
  };
  for (const [from, to] of edges) parent.set(root(from), root(to));
  const groups = new Map();
  for (const node of nodes) {
    const group = groups.get(root(node.id)) ?? { nodes: [], edges: [] };
    group.nodes.push(node);
    groups.set(root(node.id), group);
  }
  edges.forEach(([from, to], index) => groups.get(root(from)).edges.push([from, to, index]));
  return [...groups.values()];
}

// Edges leave on the right and arrive on the left, each at a place of its own, in the order in which they come.
function ports(nodes, edges) {
  const ends = (side, far) => {
    const at = new Map();
    for (const edge of edges) at.set(edge[side], [...(at.get(edge[side]) ?? []), edge]);
    for (const [id, list] of at) {
      const node = nodes.get(id);
      const gap = Math.min(10, (node.height - 16) / list.length);
      list.sort((a, b) => far(a) - far(b));
      list.forEach((edge, index) => {
        const y = node.y + (index - (list.length - 1) / 2) * gap;
        if (side === "to") edge.points[edge.points.length - 1] = [node.x - node.width / 2 - 1, y];
        else edge.points[0] = [node.x + node.width / 2, y];
      });
    }
  };
  ends("from", (edge) => edge.points[Math.min(1, edge.points.length - 1)][1] + nodes.get(edge.to).y / 1000);
  ends("to", (edge) => edge.points[Math.max(0, edge.points.length - 2)][1] + nodes.get(edge.from).y / 1000);
}

function place({ nodes, edges }) {
  const graph = new dagre.graphlib.Graph({ multigraph: true });
  graph.setGraph({ rankdir: "LR", nodesep: 22, edgesep: 12, ranksep: 46, ranker: nodes.length > 60 ? "tight-tree" : "network-simplex" });
  for (const { id, width, height } of nodes) graph.setNode(id, { width, height });
  for (const [from, to, index] of edges) graph.setEdge(from, to, { index }, `${index}`);
  dagre.layout(graph);
  const { width, height } = graph.graph();
  return {
    width,
    height,
    nodes: nodes.map(({ id }) => ({ id, x: graph.node(id).x, y: graph.node(id).y })),
    edges: graph.edges().map((edge) => ({ index: graph.edge(edge).index, points: graph.edge(edge).points })),
  };
}

// Highest first onto shelves of one width; a few widths are tried, and the one that fits the screen's shape best is taken.
function pack(parts, aspect) {
  parts.sort((a, b) => b.height - a.height || b.width - a.width);
  const widest = Math.max(...parts.map((part) => part.width));
  const area = parts.reduce((sum, part) => sum + (part.width + GAP) * (part.height + GAP), 0);
  let best = null;
  for (const factor of [0.7, 0.85, 1, 1.2, 1.45, 1.8]) {
    const limit = Math.max(widest, Math.sqrt(area * aspect) * factor);
    const spots = [];
    let [x, y, shelf, width] = [0, 0, 0, 0];
    for (const part of parts) {
      if (x > 0 && x + part.width > limit) [x, y, shelf] = [0, y + shelf + GAP, 0];
      spots.push([x, y]);
      x += part.width + GAP;
      shelf = Math.max(shelf, part.height);
      width = Math.max(width, x - GAP);
    }
    const height = y + shelf;
    const scale = Math.min(aspect / width, 1 / height);
    if (!best || scale > best.scale) best = { scale, spots, width, height };
  }
  return best;
}

onmessage = ({ data }) => {
  const parts = components(data).map(place);
  const packed = pack(parts, data.aspect);
  // A long chain leaves room above and below: rows move apart, as far as it still looks like one thing.
  const { spots, width } = packed;
  const stretch = Math.max(1, Math.min(1.7, (0.8 * width) / data.aspect / packed.height));
  const sizes = new Map(data.nodes.map((node) => [node.id, node]));
  const nodes = new Map();
  const edges = [];
  parts.forEach((part, at) => {
    const [dx, dy] = spots[at];
    for (const { id, x, y } of part.nodes) nodes.set(id, { ...sizes.get(id), x: x + dx, y: (y + dy) * stretch });
    for (const { index, points } of part.edges) {
      const [from, to] = data.edges[index];
      edges.push({ index, from, to, points: points.map(({ x, y }) => [x + dx, (y + dy) * stretch]) });
    }
  });
  ports(nodes, edges);
  postMessage({ version: data.version, width, height: packed.height * stretch, nodes: [...nodes.values()], edges });
};
