// https://developer.pagerduty.com/docs/send-alert-event
// Terraform puts ROUTING_KEY before this.
const CLOSED = ["closed", "no_action_required", "duplicate", "not_relevant", "tracked_external"];
const SEVERITIES = { P1: "critical", P2: "error", P3: "warning", P4: "info" };

function transform(message) {
  const alert = alertOf(message);
  const event = {
    routing_key: ROUTING_KEY,
    event_action: alert.id && CLOSED.indexOf(alert.status) >= 0 ? "resolve" : "trigger",
    client: "DTM Relay",
    payload: {
      summary: heading(alert),
      source: "dtm",
      severity: SEVERITIES[alert.priority] || "error", // unknown is never low
      class: alert.type || undefined,
      component: alert.monitor || undefined,
      custom_details: { severity: alert.severity, status: alert.status },
    },
  };
  if (alert.id) {
    event.dedup_key = alert.id; // one incident for an alert, whatever its versions
    event.client_url = alert.link;
    event.links = [{ href: alert.link, text: "Open in DTM" }];
  }
  return send(event);
}
