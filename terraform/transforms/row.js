// The message as a row of the BigQuery table. Pub/Sub adds the columns of its
// metadata, attributes among them. alert_id is a column of its own, because a table
// can't be clustered by something inside of another column.
//
// BigQuery takes rows of 10 MB. The row of a larger message has no data; all that the
// views need but the title is in the attributes.
const MAX_BYTES = 9500000;

function utf8Bytes(text) {
  let bytes = 0;
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i);
    // Each half of a surrogate pair stands for two of its four bytes.
    bytes += unit < 0x80 ? 1 : unit < 0x800 || (unit >= 0xd800 && unit <= 0xdfff) ? 2 : 3;
  }
  return bytes;
}

function transform(message) {
  const attributes = message.attributes || {};
  const row = { alert_id: attributes.alert_id || null, data: message.data };
  let data = JSON.stringify(row);
  if (data.length > MAX_BYTES / 3 && utf8Bytes(data) > MAX_BYTES) {
    row.data = null;
    data = JSON.stringify(row);
  }
  return { data: data, attributes: attributes };
}
