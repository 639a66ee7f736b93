// https://docs.slack.dev/messaging/sending-messages-using-incoming-webhooks
function transform(message) {
  const alert = alertOf(message);
  const lines = ["*" + escapeMarkup(heading(alert)) + "*", escapeMarkup(details(alert))];
  if (alert.link) {
    lines.push("<" + alert.link + "|Open in DTM>");
  }
  return send({
    text: escapeMarkup(heading(alert)), // of the notification on a screen
    // verbatim: domains in a title may be hostile, and get no link.
    blocks: [{ type: "section", text: { type: "mrkdwn", text: lines.filter(Boolean).join("\n"), verbatim: true } }],
    unfurl_links: false,
    unfurl_media: false,
  });
}
