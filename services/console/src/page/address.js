// The address of the page is its state, #/PAGE/SUBJECT?NAME=VALUE: a link, a reload or Back leads to what was seen.

const decoded = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // written by hand
  }
};

export function address() {
  const [path, query] = location.hash.replace(/^#\//, "").split(/\?(.*)/s);
  const [page, subject] = path.split(/\/(.*)/s);
  return { page: page || "map", subject: decoded(subject ?? ""), query: new URLSearchParams(query ?? "") };
}

// What is empty is left out, `true` is a name alone, and a list is a name several times.
function set(query, values) {
  for (const [name, value] of Object.entries(values)) {
    query.delete(name);
    for (const one of [value].flat()) {
      if (one === true) query.append(name, "");
      else if (one !== null && one !== undefined && one !== false && one !== "") query.append(name, one);
    }
  }
  return query;
}

export function href(page, subject = "", values = {}) {
  return written(page, subject, set(new URLSearchParams(), values));
}

function written(page, subject, parameters) {
  const query = `${parameters}`.replace(/=(?=&|$)/g, "");
  // A slash stays one: the subject may be a path, `TABLE/KEY`.
  const path = subject.split("/").map(encodeURIComponent).join("/");
  return `#/${page}${subject ? `/${path}` : ""}${query ? `?${query}` : ""}`;
}

// Something else is looked at.
export function go(to) {
  location.hash = to;
}

// A part of what is seen has changed, and is drawn already. While somebody types, Back should not lead from letter to letter.
export function note(values, { subject = address().subject, typed = false } = {}) {
  const { page, query } = address();
  const to = written(page, subject, set(query, values));
  if (to === location.hash) return;
  if (typed) history.replaceState(null, "", to);
  else history.pushState(null, "", to);
}
