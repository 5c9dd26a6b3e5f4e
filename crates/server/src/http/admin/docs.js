// Shows /openapi.json as a page: operations by tag, parameters, schemas, and a form that sends the request.
"use strict";

const el = (tag, attributes = {}, ...children) => {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
};

// Text of the description: paragraphs, **bold** and `code`; nothing of it is taken for HTML.
const prose = (text) =>
  (text || "").split(/\n\s*\n/).filter(Boolean).map((paragraph) =>
    el("p", {}, ...paragraph.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) => {
      if (part.startsWith("**") && part.endsWith("**")) return el("strong", {}, part.slice(2, -2));
      if (part.length > 1 && part.startsWith("`") && part.endsWith("`")) return el("code", {}, part.slice(1, -1));
      return part;
    })));

let description;

const resolve = (node) => {
  let current = node;
  for (let hops = 0; current && current.$ref && hops < 16; hops++) {
    current = current.$ref.replace(/^#\//, "").split("/").reduce((at, name) => at && at[name], description);
  }
  return current || {};
};

const nameOf = (schema) => {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.oneOf || schema.anyOf) return (schema.oneOf || schema.anyOf).map(nameOf).join(" | ");
  const type = [].concat(schema.type || (schema.allOf ? "object" : "any"));
  if (type.includes("array")) return `${nameOf(schema.items) || "any"}[]` + (type.includes("null") ? " | null" : "");
  return type.join(" | ") + (schema.format ? ` (${schema.format})` : "");
};

// The fields of an object schema, those of its parts included.
const fieldsOf = (schema) => {
  const whole = resolve(schema);
  const fields = [];
  for (const part of whole.allOf || []) fields.push(...fieldsOf(part));
  for (const [name, field] of Object.entries(whole.properties || {})) {
    fields.push({ name, field, required: (whole.required || []).includes(name) });
  }
  return fields;
};

const inner = (schema) => {
  if (!schema) return null;
  if (schema.$ref) return schema;
  for (const part of schema.oneOf || schema.anyOf || []) if (part.$ref) return part;
  return schema.items ? inner(schema.items) : null;
};

const schemaView = (schema, seen = []) => {
  const whole = resolve(schema);
  const fields = fieldsOf(schema);
  const box = el("div", {}, ...prose(whole.description));
  if (!fields.length) {
    box.append(el("span", { class: "type" }, nameOf(schema)));
    return box;
  }
  const rows = fields.map(({ name, field, required }) => {
    const deeper = inner(field);
    const key = deeper && deeper.$ref;
    const more = [];
    if ("default" in field) more.push(el("p", {}, "Default: ", el("code", {}, JSON.stringify(field.default))));
    if (key && !seen.includes(key) && fieldsOf(deeper).length) {
      more.push(el("details", {}, el("summary", {}, nameOf(deeper)), schemaView(deeper, [...seen, key])));
    }
    return el("tr", {},
      el("td", {}, el("code", {}, name), required ? el("div", { class: "required" }, "required") : null),
      el("td", { class: "type" }, nameOf(field)),
      el("td", {}, ...prose(field.description), ...more));
  });
  box.append(el("table", {}, el("tbody", {}, ...rows)));
  return box;
};

const sample = (schema, depth = 0) => {
  const whole = resolve(schema);
  if ("example" in whole) return whole.example;
  if ("default" in whole) return whole.default;
  if (whole.oneOf || whole.anyOf) return sample((whole.oneOf || whole.anyOf).find((one) => one.type !== "null"), depth);
  const type = [].concat(whole.type || "object")[0];
  if (type === "array") return depth < 3 ? [sample(whole.items, depth + 1)] : [];
  if (type === "string") return "";
  if (type === "integer" || type === "number") return 0;
  if (type === "boolean") return true;
  const value = {};
  if (depth < 3) for (const { name, field, required } of fieldsOf(whole)) if (required) value[name] = sample(field, depth + 1);
  return value;
};

const tryIt = (method, path, operation) => {
  const inputs = (operation.parameters || []).map(resolve).map((parameter) => ({
    parameter,
    input: el("input", { placeholder: parameter.required ? "required" : "", "aria-label": parameter.name }),
  }));
  const content = resolve(operation.requestBody).content || {};
  const bodyType = Object.keys(content)[0];
  const isJson = bodyType === "application/json";
  const body = isJson
    ? el("textarea", { spellcheck: "false", "aria-label": "Body" })
    : bodyType ? el("input", { type: "file", "aria-label": "Body" }) : null;
  if (isJson) body.value = JSON.stringify(sample(content[bodyType].schema), null, 2);
  const answer = el("pre", { class: "hidden", "aria-live": "polite" });
  const show = (text) => {
    answer.classList.remove("hidden");
    answer.textContent = text;
  };
  const send = async () => {
    button.disabled = true;
    try {
      let url = path;
      const query = new URLSearchParams();
      const headers = {};
      for (const { parameter, input } of inputs) {
        if (!input.value) continue;
        if (parameter.in === "path") url = url.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
        else if (parameter.in === "query") query.set(parameter.name, input.value);
        else headers[parameter.name] = input.value;
      }
      const key = document.getElementById("key").value.trim();
      if (key) headers.Authorization = `ApiKey ${key}`;
      if (isJson) headers["Content-Type"] = "application/json";
      const payload = !body ? undefined : isJson ? body.value : body.files[0];
      if (String(query)) url += `?${query}`;
      const started = performance.now();
      const response = await fetch(url, { method: method.toUpperCase(), headers, body: payload });
      const head = `${response.status} ${response.statusText}  ${Math.round(performance.now() - started)} ms  ` +
        `${response.headers.get("x-request-id") || ""}\n\n`;
      const type = response.headers.get("content-type") || "";
      let text = "";
      show(head);
      if (type.startsWith("application/octet-stream")) {
        text = `${(await response.blob()).size} bytes`;
      } else if (response.body) {
        // Events are shown as they come.
        const decoder = new TextDecoder();
        const reader = response.body.getReader();
        for (let piece = await reader.read(); !piece.done; piece = await reader.read()) {
          text += decoder.decode(piece.value, { stream: true });
          show(head + text);
        }
      }
      if (type.includes("json")) {
        try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* shown as it came */ }
      }
      show(head + text);
    } catch (error) {
      show(`The request could not be sent: ${error.message}`);
    } finally {
      button.disabled = false;
    }
  };
  const button = el("button", { type: "button", onclick: send }, "Send");
  const rows = inputs.map(({ parameter, input }) =>
    el("tr", {}, el("td", {}, el("code", {}, parameter.name), el("div", { class: "type" }, parameter.in)), el("td", {}, input),
      el("td", {}, ...prose(parameter.description))));
  return el("div", {}, el("h4", {}, "Try it"), rows.length ? el("table", {}, el("tbody", {}, ...rows)) : null, body,
    el("p", {}, button), answer);
};

const operationView = (method, path, operation) => {
  const box = el("details", { class: "operation", id: operation.operationId });
  box.append(el("summary", {}, el("span", { class: `method ${method}` }, method.toUpperCase()), el("span", { class: "path" }, path),
    el("span", { class: "summary" }, operation.summary || "")));
  // Filled when first opened: the page has many schemas.
  box.addEventListener("toggle", () => {
    if (!box.open || box.dataset.filled) return;
    box.dataset.filled = "yes";
    const parts = el("div", {}, ...prose(operation.description));
    if (operation["x-aliases"]) parts.append(el("p", {}, "Also served at ", el("code", {}, operation["x-aliases"].join(", "))));
    const content = resolve(operation.requestBody).content || {};
    for (const [type, { schema }] of Object.entries(content)) {
      parts.append(el("h4", {}, `Body (${type})`), schemaView(schema));
    }
    for (const [status, reference] of Object.entries(operation.responses || {})) {
      const response = resolve(reference);
      const shape = Object.entries(response.content || {}).map(([type, { schema }]) =>
        el("details", {}, el("summary", { class: "type" }, `${type} ${nameOf(schema)}`), schemaView(schema)));
      parts.append(el("h4", {}, `${status} `, el("span", { class: "summary" }, response.description || "")), ...shape);
    }
    parts.append(tryIt(method, path, operation));
    box.append(parts);
  });
  return box;
};

const render = () => {
  const content = document.getElementById("content");
  const index = document.getElementById("index");
  document.getElementById("title").textContent = `${description.info.title} ${description.info.version}`;
  content.replaceChildren(...prose(description.info.description));
  const operations = Object.entries(description.paths).flatMap(([path, item]) =>
    ["get", "post", "put", "delete"].filter((method) => item[method]).map((method) => ({ method, path, operation: item[method] })));
  const entries = [];
  for (const tag of description.tags || []) {
    const mine = operations.filter(({ operation }) => (operation.tags || []).includes(tag.name));
    const links = mine.map(({ method, path, operation }) => {
      const view = operationView(method, path, operation);
      const link = el("a", { href: `#${operation.operationId}`, onclick: () => { view.open = true; } }, operation.summary || path);
      entries.push({ view, link, text: `${method} ${path} ${operation.summary} ${operation.description || ""}`.toLowerCase() });
      return { view, link };
    });
    index.append(el("h3", {}, tag.name), ...links.map(({ link }) => link));
    content.append(el("h2", {}, tag.name), ...prose(tag.description), ...links.map(({ view }) => view));
  }
  document.getElementById("find").addEventListener("input", (event) => {
    const wanted = event.target.value.trim().toLowerCase();
    for (const { view, link, text } of entries) {
      const misses = wanted !== "" && !text.includes(wanted);
      view.classList.toggle("hidden", misses);
      link.classList.toggle("hidden", misses);
    }
  });
  const chosen = entries.find(({ view }) => `#${view.id}` === location.hash);
  if (chosen) {
    chosen.view.open = true;
    chosen.view.scrollIntoView();
  }
};

fetch("/openapi.json")
  .then((response) => response.json())
  .then((json) => { description = json; render(); })
  .catch((error) => { document.getElementById("content").textContent = `The description could not be read: ${error.message}`; });
