(() => {
  "use strict";
  const AT_ONCE = 20;
  const find = (id) => document.getElementById(id);
  const posts = Array.from(find("list").children);
  const fields = ["f-text", "f-label", "f-kind", "f-picture"].map(find);
  const [text, label, kind, picture] = fields;
  const pagers = [find("pager"), find("pager-below")];
  let fitting = posts;
  let page = 0;

  const has = (post, name, value) => post.dataset[name].includes(` ${value} `);

  function fits(post) {
    const wanted = text.value.trim().toLowerCase();
    const wrong = post.dataset.kinds.trim() !== "";
    if (wanted && !post.dataset.text.includes(wanted)) return false;
    if (label.value && !has(post, "labels", label.value)) return false;
    if (picture.value && !has(post, "states", picture.value)) return false;
    if (kind.value === "any") return wrong;
    if (kind.value === "no") return !wrong;
    return !kind.value || has(post, "kinds", kind.value);
  }

  function show() {
    const pages = Math.max(1, Math.ceil(fitting.length / AT_ONCE));
    page = Math.min(Math.max(page, 0), pages - 1);
    const shown = new Set(fitting.slice(page * AT_ONCE, (page + 1) * AT_ONCE));
    for (const post of posts) post.hidden = !shown.has(post);
    const first = page * AT_ONCE + 1;
    find("status").textContent = shown.size
      ? `${first} to ${first + shown.size - 1} of ${fitting.length} posts`
      : "0 posts";
    find("nothing").hidden = shown.size > 0;
    pagers[1].hidden = pages === 1;
    for (const button of document.querySelectorAll("[data-step]")) {
      // Not disabled, which would take the focus away from under the keyboard.
      const next = page + Number(button.dataset.step);
      button.setAttribute("aria-disabled", String(next < 0 || next >= pages));
    }
  }

  function filter() {
    fitting = posts.filter(fits);
    page = 0;
    show();
  }

  for (const field of fields) field.addEventListener("input", filter);
  find("f-reset").addEventListener("click", () => {
    for (const field of fields) field.value = "";
    filter();
  });
  for (const pager of pagers) {
    pager.addEventListener("click", (event) => {
      const button = event.target.closest("[data-step]");
      if (!button || button.getAttribute("aria-disabled") === "true") return;
      page += Number(button.dataset.step);
      show();
      if (pager === pagers[1]) find("examples").focus();
    });
  }
  find("filters").hidden = false;
  pagers[0].hidden = false;
  filter();
})();
