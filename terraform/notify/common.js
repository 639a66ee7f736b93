// What a notification may say of an alert. Everything but the title is in the
// attributes, which are the same in both message formats; the title stands at the top
// of the data in both. Nothing else of the data is looked at, so no document and no
// secret of one can get out. Data that can't be read costs the title only.

// turns are the characters that change the direction of writing, and line separators.
const turns = "\u061c\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069";

// clean makes one line of foreign text, of so many characters at most.
function clean(text, length) {
  let line = "";
  let left = length;
  for (const c of text) {
    if (left-- === 0) {
      break;
    }
    const code = c.codePointAt(0);
    if (code < 0x20 || (code >= 0x7f && code < 0xa0) || turns.includes(c)) {
      line += " ";
    } else if (code >= 0xd800 && code < 0xe000) {
      line += "\ufffd"; // half of a character, which is no UTF-8
    } else {
      line += c;
    }
  }
  return line.trim();
}

// The lengths are such that the longest text keeps within Slack's 3,000 characters,
// where an escaped one counts as five.
function alertOf(message) {
  const attributes = message.attributes || {};
  const attribute = function (name, length) { return clean(attributes[name] || "", length); };
  let title = "";
  try {
    const data = JSON.parse(message.data);
    title = typeof data.title === "string" ? clean(data.title, 240) : "";
  } catch (e) {
    // No JSON, or null.
  }
  const alert = {
    id: attribute("alert_id", 128),
    title: title,
    type: attribute("alert_type", 40),
    severity: attribute("severity", 40),
    status: attribute("status", 40),
    priority: attribute("priority", 40),
    event: attribute("event", 40),
    monitor: attribute("monitor_name", 100) || attribute("monitor_id", 100),
  };
  alert.title = title || [alert.type, alert.monitor].filter(Boolean).join(": ") || "DTM alert";
  alert.link = alert.id && "https://advantage.mandiant.com/dtm/alerts/" + encodeURIComponent(alert.id);
  return alert;
}

// heading is like "P1 · created · Title", details like "Message · high · new · Monitor".
function heading(alert) {
  return [alert.priority, alert.event, alert.title].filter(Boolean).join(" · ");
}

function details(alert) {
  return [alert.type, alert.severity, alert.status, alert.monitor].filter(Boolean).join(" · ");
}

// Slack and Google Chat read & < and > in a text as markup.
function escapeMarkup(text) {
  return text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
}

// send makes the body of the push. Pub/Sub writes the attributes into headers.
function send(body) {
  return { data: JSON.stringify(body), attributes: { "Content-Type": "application/json" } };
}
