// What the pages can do beyond being read: fold the contents on a phone, mark where one is, filter, search.

const $ = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

/** A text in small letters with a space before each word, so that the beginnings of words can be found in it. */
const plain = (text) => ` ${text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ")}`;
const wordsOf = (text) => plain(text).split(" ").filter(Boolean);
const has = (text, word) => text.includes(` ${word}`);

function scrollers() {
  for (const box of all("pre, .scroll")) {
    if (box.scrollWidth > box.clientWidth) box.tabIndex = 0; // so that it can be scrolled with the keyboard
  }
}

function contents() {
  const nav = $(".contents");
  if (!nav) return;
  const wide = matchMedia("(min-width: 64rem)");
  const fold = () => $("details", nav).open = wide.matches;
  fold();
  wide.addEventListener("change", fold);
  const links = new Map(all("li a", nav).map((link) => [decodeURIComponent(link.hash.slice(1)), link]));
  const heads = [...links.keys()].map((id) => document.getElementById(id)).filter(Boolean);
  const mark = () => {
    const at = heads.findLast((head) => head.getBoundingClientRect().top < 120);
    for (const link of links.values()) link.removeAttribute("aria-current");
    if (at) links.get(at.id).setAttribute("aria-current", "true");
  };
  addEventListener("scroll", mark, { passive: true });
  mark();
}

function filter() {
  const form = $("#filter");
  if (!form) return;
  form.hidden = false;
  const said = (article) => all(":scope > div > :not(details)", article).map((part) => part.textContent).join(" ");
  const claims = all("#claims article").map((article) => [article, plain(said(article))]);
  const show = () => {
    const { verdict, lesson, words } = Object.fromEntries(new FormData(form));
    const wanted = wordsOf(words);
    let shown = 0;
    for (const [article, text] of claims) {
      const { dataset } = article;
      const fits = (!verdict || dataset.verdict === verdict) && (!lesson || dataset.lesson === lesson) &&
        wanted.every((word) => has(text, word));
      article.hidden = !fits;
      shown += fits;
    }
    $("#shown").textContent = `${shown} of ${claims.length} claims`;
  };
  form.addEventListener("input", show);
  form.addEventListener("reset", () => setTimeout(show));
  form.addEventListener("submit", (event) => event.preventDefault());
  show();
}

/** Shows the numbers of the claim that the address names. */
function linkedTo() {
  const place = document.getElementById(location.hash.slice(1));
  if (place?.matches("#claims article")) $("details", place).open = true;
}

/** The entries that have every word, those with it in their heading first. */
function found(index, query) {
  const wanted = wordsOf(query);
  const scored = index.map((entry) => {
    const [kind, heading, , words] = entry.map(plain);
    const fits = wanted.every((word) => has(kind + heading + words, word));
    return [fits ? 1 + wanted.filter((word) => has(heading, word)).length : 0, entry];
  });
  return scored.filter(([score]) => score).sort((a, b) => b[0] - a[0]).map(([, entry]) => entry);
}

/** A piece of the text around the first of the words. */
function around(text, wanted) {
  const at = Math.max(0, Math.min(...wanted.map((word) => text.toLowerCase().indexOf(word)).filter((i) => i >= 0)));
  const from = Number.isFinite(at) ? Math.max(0, at - 60) : 0;
  return (from ? "… " : "") + text.slice(from, from + 180) + (text.length > from + 180 ? " …" : "");
}

function search() {
  const form = $("#search");
  if (!form) return;
  form.hidden = false;
  const field = $("#words"), index = globalThis.minipeftIndex;
  const show = () => {
    const query = field.value.trim(), hits = query ? found(index, query) : [];
    $("#everything").hidden = Boolean(query);
    $("#hits").textContent = query ? `${hits.length} found` : "";
    $("#results").replaceChildren(
      ...hits.slice(0, 50).map(([kind, heading, address, text]) => {
        const item = document.createElement("li"),
          link = document.createElement("a"),
          words = document.createElement("p");
        const where = document.createElement("span");
        link.href = address;
        link.textContent = heading;
        where.className = "kicker";
        where.textContent = ` ${kind}`;
        words.textContent = around(text, wordsOf(query));
        item.append(link, where, words);
        return item;
      }),
    );
  };
  field.value = new URLSearchParams(location.search).get("q") ?? "";
  field.addEventListener("input", show);
  form.addEventListener("submit", (event) => event.preventDefault());
  if (!field.value) field.focus({ preventScroll: true });
  show();
}

/** How many questions were answered rightly at the first try. */
function count() {
  for (const quiz of all(".quiz")) {
    const questions = all(".question", quiz), first = new Map();
    const said = document.createElement("p");
    said.setAttribute("role", "status");
    said.className = "score";
    quiz.append(said);
    quiz.addEventListener("toggle", ({ target }) => {
      if (!target.matches(".choice[open]")) return;
      const question = target.closest(".question");
      if (!first.has(question)) first.set(question, target.matches(".right"));
      const right = [...first.values()].filter(Boolean).length;
      said.textContent =
        `${right} of ${first.size} right at the first try; there are ${questions.length} questions here.`;
    }, true);
  }
}

scrollers();
contents();
filter();
linkedTo();
addEventListener("hashchange", linkedTo);
search();
count();
