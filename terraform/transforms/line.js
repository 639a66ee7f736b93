// The message with its metadata as one line of JSON: Cloud Storage gets a message's
// data as text, and nothing else of it. The data is not parsed and written again,
// which would change numbers: in JSON, line breaks stand only between tokens, where a
// space means the same. Data that is no JSON is a string in data_text instead.
function transform(message, metadata) {
  const line = JSON.stringify({
    message_id: metadata.message_id,
    publish_time: metadata.publish_time,
    attributes: message.attributes || {},
  });
  let data;
  try {
    JSON.parse(message.data);
    data = ',"data":' + message.data.replace(/[\r\n]+/g, " ");
  } catch (e) {
    data = ',"data_text":' + JSON.stringify(message.data);
  }
  // Without attributes the message stays within Pub/Sub's size.
  return { data: line.slice(0, -1) + data + "}", attributes: {} };
}
