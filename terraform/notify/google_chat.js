// https://developers.google.com/workspace/chat/api/reference/rest/v1/cards
function transform(message) {
  const alert = alertOf(message);
  const widgets = [{ textParagraph: { text: "<b>" + escapeMarkup(alert.title) + "</b>" } }];
  if (details(alert)) {
    widgets.push({ textParagraph: { text: escapeMarkup(details(alert)) } });
  }
  if (alert.link) {
    widgets.push({ buttonList: { buttons: [{ text: "Open in DTM", onClick: { openLink: { url: alert.link } } }] } });
  }
  // In the header, and in a text outside of the card, other characters would be markup.
  const title = [alert.priority, alert.event].filter(Boolean).join(" · ").replace(/[^A-Za-z0-9_ ·]/g, "");
  return send({
    cardsV2: [{ cardId: "alert", card: { header: { title: title || "DTM alert" }, sections: [{ widgets: widgets }] } }],
  });
}
