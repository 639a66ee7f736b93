// A flat object of strings. What isn't known is absent.
function transform(message) {
  const alert = alertOf(message);
  for (const name of Object.keys(alert)) {
    if (!alert[name]) {
      delete alert[name];
    }
  }
  return send(alert);
}
