-- One row for each message, with what the views need of it. The same version can be
-- there more than once: a delivery is at least once.
--
-- A version counts as of its updated_at. One that lies more than a day after the
-- publishing is a mistake of GTI's clock, and every later version is newer:
-- docs/messages.md, "At least once".
SELECT
  alert_id,
  SAFE.JSON_VALUE(data, '$.title') AS title,
  JSON_VALUE(attributes, '$.alert_type') AS alert_type,
  JSON_VALUE(attributes, '$.severity') AS severity,
  JSON_VALUE(attributes, '$.priority') AS priority,
  JSON_VALUE(attributes, '$.status') AS status,
  JSON_VALUE(attributes, '$.monitor_id') AS monitor_id,
  JSON_VALUE(attributes, '$.monitor_name') AS monitor_name,
  JSON_VALUE(attributes, '$.mscore') AS mscore,
  JSON_VALUE(attributes, '$.event') AS event,
  JSON_VALUE(attributes, '$.origin') AS origin,
  JSON_VALUE(attributes, '$.feed') AS feed,
  SAFE.PARSE_TIMESTAMP('%Y-%m-%dT%H:%M:%E*SZ', JSON_VALUE(attributes, '$.created_at')) AS created_at,
  SAFE.PARSE_TIMESTAMP('%Y-%m-%dT%H:%M:%E*SZ', JSON_VALUE(attributes, '$.updated_at')) AS updated_at,
  IFNULL(JSON_VALUE(attributes, '$.status'), 'new') <> 'new' AS triaged,
  IFNULL(JSON_VALUE(attributes, '$.status'), 'new') IN (
    'closed', 'no_action_required', 'duplicate', 'not_relevant', 'tracked_external'
  ) AS closed,
  IF(
    SAFE.PARSE_TIMESTAMP('%Y-%m-%dT%H:%M:%E*SZ', JSON_VALUE(attributes, '$.updated_at'))
      <= TIMESTAMP_ADD(publish_time, INTERVAL 1 DAY),
    SAFE.PARSE_TIMESTAMP('%Y-%m-%dT%H:%M:%E*SZ', JSON_VALUE(attributes, '$.updated_at')),
    publish_time
  ) AS version_at,
  publish_time,
  attributes,
  data
FROM ${table}
WHERE alert_id IS NOT NULL
