# The environment of the functions: one variable a line, because a test of
# internal/config reads the names here. Both are the same program, which checks
# all of its settings at the start; SyncStatus doesn't publish to PUBSUB_TOPIC.
locals {
  shared_environment = {
    GOOGLE_CLOUD_PROJECT = var.project_id
    FEED                 = var.feed
    PUBSUB_TOPIC         = local.topic_ids.alerts
    REJECTS_TOPIC        = local.topic_ids.rejects
    FIRESTORE_DATABASE   = local.database
    GTI_API_KEY_SECRET   = "${local.secret_id}/versions/${var.secret.version}"
    GTI_BASE_URL         = var.gti.base_url
    GTI_TOOL_NAME        = var.gti.tool_name
    DTM_FILTER           = var.gti.filter
    DTM_REFS             = tostring(var.gti.refs)
    MESSAGE_FORMAT       = var.message_format
    INITIAL_LOOKBACK     = var.windows.initial_lookback
    OVERLAP              = var.windows.overlap
    SETTLE               = var.windows.settle
    MAX_LOOKBACK         = var.windows.max_lookback
    AUDIT_WINDOW         = var.windows.audit
    UPDATES_WINDOW       = var.windows.updates
    LEDGER_TTL           = var.windows.ledger_ttl
    MONITORS_CHECK       = var.windows.monitors_check
    MAX_ALERTS_PER_RUN   = tostring(var.gti.max_alerts_per_run)
    MAX_CONCURRENCY      = tostring(var.gti.max_concurrency)
    MAX_QPS              = tostring(var.gti.max_qps)
    MAX_REQUESTS_PER_DAY = tostring(var.gti.max_requests_per_day)
    MAX_ERRORS_PER_HOUR  = tostring(var.gti.max_errors_per_hour)
    LOG_LEVEL            = var.log_level
  }

  ingest_budget = var.ingest.budget == null ? {} : {
    RUN_BUDGET = var.ingest.budget
  }

  # A rule's values that are not set are left out: null is none of them.
  rules = jsonencode([for rule in var.rules : merge(
    { for name, value in rule : name => value if name != "then" && value != null },
    { then = { for name, value in rule.then : name => value if value != null } },
  )])
  rules_write_back = anytrue([for rule in var.rules : try(rule.then.set_status, null) != null || length(coalesce(try(rule.then.tags, null), [])) > 0])

  # Once somebody is named, nobody else begins runs: Cloud Scheduler has to be named too.
  operators = length(var.operators) == 0 ? [] : concat([local.accounts.scheduler.email], var.operators)

  # SyncStatus sends no alerts: without the rules it starts without CEL. Nobody calls it
  # but Pub/Sub.
  ingest_environment = merge(local.shared_environment, local.ingest_budget, {
    CLOUD_RUN_TIMEOUT_SECONDS = tostring(var.ingest.timeout_seconds)
    RULES                     = local.rules
    REDACT                    = jsonencode(var.redact)
    STATUS_TOPIC              = local.topic_ids.status
    OPERATORS                 = jsonencode(local.operators)
    VIEWERS                   = jsonencode(var.viewers)
  })

  # Google takes 32 KiB of names and values together, in bytes, and sets some itself.
  # OPERATORS stands in with what is known before the accounts are made: an e-mail of a
  # service account has 85 bytes at most, and here two quotation marks and a comma.
  # SyncStatus has less.
  environment_bytes = floor(length(replace(base64encode(join("", concat(
    keys(local.ingest_environment),
    values(merge(local.ingest_environment, { OPERATORS = jsonencode(var.operators) })),
  ))), "=", "")) * 3 / 4) + 88

  sync_environment = merge(local.shared_environment, {
    CLOUD_RUN_TIMEOUT_SECONDS = tostring(var.sync.timeout_seconds)
  })
}
