# Where and what it is called

variable "project_id" {
  description = "Project that everything is made in. It needs a billing account."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]$", var.project_id))
    error_message = "project_id: must be the id of a project (not its name or number): 6 to 30 small letters, digits and dashes, beginning with a letter and not ending with a dash."
  }
}

variable "region" {
  description = "Region of the functions, the scheduler job, the source and, if database.location doesn't say otherwise, of the database."
  type        = string
  default     = "us-central1"
  nullable    = false

  validation {
    condition     = trimspace(var.region) != ""
    error_message = "region: must be a region of Google Cloud like us-central1 or europe-west1, not empty."
  }
}

variable "name" {
  description = "What the names of all resources but the topics begin with."
  type        = string
  default     = "dtm-relay"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{2,28}[a-z0-9]$", var.name)) # the database's has 4 or more
    error_message = "name: must be 4 to 30 small letters, digits and dashes, beginning with a letter and not ending with a dash."
  }
}

variable "feed" {
  description = "Name of the feed: its own position, ledger and backfills. Several feeds are several instances of this module."
  type        = string
  default     = "default"
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]([a-z0-9-]*[a-z0-9])?$", var.feed))
    error_message = "feed: must be small letters, digits and dashes, beginning with a letter and not ending with a dash."
  }
  validation {
    # Cloud Run: a service's name has at most 49 characters.
    condition     = length("${var.name}-${var.feed}") <= 42
    error_message = "feed: name and feed together must have at most 41 characters, because Cloud Run's names are short."
  }
}

variable "labels" {
  description = "Labels of all resources that take some, beside app, feed and version."
  type        = map(string)
  default     = {}
  nullable    = false

  validation {
    condition     = alltrue([for k, v in var.labels : k != "" && length(k) <= 63 && try(length(v) <= 63, false)])
    error_message = "labels: keys must have 1 to 63 and values 0 to 63 characters, and none is null."
  }
  validation {
    # Google takes 64. app, feed and version are three, and Terraform's provider and
    # Cloud Functions set some themselves (goog-…).
    condition     = length(var.labels) <= 57
    error_message = "labels: must be 57 at most."
  }
}

# What it relays

variable "gti" {
  description = "What is asked of Google Threat Intelligence, and how much. filter is a JSON object with the API's parameter names. The limits count for the API key: leave room for whatever else uses it."
  type = object({
    filter               = optional(string, "{}")
    refs                 = optional(bool, true) # with document, labels and topics (25 a page), or without (100 a page)
    max_concurrency      = optional(number, 6)  # the API allows 10 for a user
    max_qps              = optional(number, 10)
    max_requests_per_day = optional(number, 40000) # the API allows 50,000
    max_errors_per_hour  = optional(number, 100)   # the API locks a user out after so many; Google may have raised it for you
    max_alerts_per_run   = optional(number, 0)     # 0 is no limit
    base_url             = optional(string, "https://www.virustotal.com/api/v3")
    tool_name            = optional(string, "dtm-relay")
  })
  default  = {}
  nullable = false

  # The functions check all of the filter again (internal/dtm). What a line can check
  # is checked here too, so that most mistakes are found before anything is deployed.
  validation {
    condition     = can(keys(jsondecode(var.gti.filter)))
    error_message = "gti.filter: must be a JSON object such as {\"severity\":[\"high\"]}, or {} for everything."
  }
  validation {
    condition = try(length(setsubtract(keys(jsondecode(var.gti.filter)), [
      "monitor_id", "status", "alert_type", "tags", "match_value", "severity", "mscore_gte", "search", "has_analysis",
    ])) == 0, true)
    error_message = "gti.filter: the names allowed are monitor_id, status, alert_type, tags, match_value, severity, mscore_gte, search and has_analysis."
  }
  validation {
    # As JSON again, since Terraform takes numbers and booleans for strings, and
    # objects for lists.
    condition = alltrue([for name in ["monitor_id", "status", "alert_type", "tags", "match_value", "severity"] :
      try(startswith(jsonencode(jsondecode(var.gti.filter)[name]), "[") && alltrue([for v in jsondecode(var.gti.filter)[name] : startswith(jsonencode(v), "\"") && trimspace(v) != ""]), false)
      if can(jsondecode(var.gti.filter)[name])
    ])
    error_message = "gti.filter: monitor_id, status, alert_type, tags, match_value and severity must be lists of strings such as [\"high\"]."
  }
  validation {
    condition     = try(startswith(jsonencode(jsondecode(var.gti.filter).search), "\""), true)
    error_message = "gti.filter: search must be a string."
  }
  validation {
    condition     = try(contains(["true", "false"], jsonencode(jsondecode(var.gti.filter).has_analysis)), true)
    error_message = "gti.filter: has_analysis must be true or false, without quotation marks."
  }
  validation {
    condition     = try(length(setsubtract(jsondecode(var.gti.filter).severity, ["high", "medium", "low"])) == 0, true)
    error_message = "gti.filter: the values allowed in severity are high, medium and low."
  }
  validation {
    condition = try(length(setsubtract(jsondecode(var.gti.filter).status, [
      "new", "read", "escalated", "in_progress", "closed", "no_action_required", "duplicate", "not_relevant", "tracked_external",
    ])) == 0, true)
    error_message = "gti.filter: the values allowed in status are new, read, escalated, in_progress, closed, no_action_required, duplicate, not_relevant and tracked_external."
  }
  validation {
    condition     = !can(jsondecode(var.gti.filter).mscore_gte) || contains([for n in range(101) : tostring(n)], try(jsonencode(jsondecode(var.gti.filter).mscore_gte), ""))
    error_message = "gti.filter: mscore_gte must be a whole number from 0 to 100, without quotation marks."
  }
  validation {
    condition     = contains(range(1, 11), var.gti.max_concurrency)
    error_message = "gti.max_concurrency: must be a whole number from 1 to 10, the API's limit for one user."
  }
  validation {
    condition     = var.gti.max_concurrency + var.sync.max_instances * var.sync.concurrency <= 10
    error_message = "gti.max_concurrency: with sync.max_instances times sync.concurrency it must not be more than 10, the API's limit for one user."
  }
  validation {
    condition     = var.gti.max_qps >= 0.001 && var.gti.max_qps <= 1000
    error_message = "gti.max_qps: must be 0.001 to 1000 requests a second; fractions are allowed."
  }
  validation {
    condition     = var.gti.max_requests_per_day >= 1 && var.gti.max_requests_per_day <= 1000000000 && floor(var.gti.max_requests_per_day) == var.gti.max_requests_per_day
    error_message = "gti.max_requests_per_day: must be a whole number from 1 to 1000000000."
  }
  validation {
    condition     = var.gti.max_errors_per_hour >= 10 && var.gti.max_errors_per_hour <= 10000 && floor(var.gti.max_errors_per_hour) == var.gti.max_errors_per_hour
    error_message = "gti.max_errors_per_hour: must be a whole number from 10 to 10000."
  }
  validation {
    condition     = var.gti.max_alerts_per_run >= 0 && var.gti.max_alerts_per_run <= 1000000000 && floor(var.gti.max_alerts_per_run) == var.gti.max_alerts_per_run
    error_message = "gti.max_alerts_per_run: must be a whole number from 0 to 1000000000; 0 is no limit."
  }
  validation {
    condition     = can(regex("^https://[^\\s/@?#]+(/[^\\s@?#]*)?$", var.gti.base_url))
    error_message = "gti.base_url: must be https://HOST/PATH or https://HOST:PORT/PATH, without a user, a query or a fragment."
  }
  validation {
    condition     = can(regex("^[!-~]([ -~]{0,126}[!-~])?$", var.gti.tool_name))
    error_message = "gti.tool_name: must be 1 to 128 printable ASCII characters."
  }
}

variable "message_format" {
  description = "What the data of an alert's message is: raw, the alert as GTI sent it, or incident, what a case system needs with the alert in it (docs/incidents.md). It is the feed's, so all its subscribers get the same."
  type        = string
  default     = "raw"
  nullable    = false

  validation {
    condition     = contains(["raw", "incident"], var.message_format)
    error_message = "message_format: must be raw or incident."
  }
}

variable "rules" {
  description = "What becomes of an alert, in order: a list of objects with name, when (a CEL expression) and then (priority, escalate, set_status, tags, drop, stop). docs/rules.md is their book."
  # Objects of a type would lose what it doesn't name, so that a misspelt drop or
  # escalate would be left out without a word.
  type     = any
  default  = []
  nullable = false

  # The functions check all of it again, and compile the expressions.
  validation {
    condition     = can([for rule in var.rules : keys(rule)]) && !can(keys(var.rules))
    error_message = "rules: must be a list of objects such as {name = \"noise\", when = \"alert.severity == 'low'\", then = {drop = true}}."
  }
  validation {
    condition     = alltrue([for rule in var.rules : length(setsubtract(try(keys(rule), []), ["name", "when", "then"])) == 0 && alltrue([for name in ["name", "when", "then"] : can(rule[name])])])
    error_message = "rules: a rule has name, when and then, and nothing else."
  }
  validation {
    condition     = alltrue([for rule in var.rules : can(regex("^[a-z0-9][a-z0-9-]{0,62}$", rule.name))])
    error_message = "rules: a name must be 1 to 63 small letters, digits and dashes, beginning with a letter or a digit."
  }
  validation {
    condition     = length(distinct([for rule in var.rules : try(rule.name, "")])) == length(var.rules)
    error_message = "rules: no two rules may have one name."
  }
  validation {
    condition     = alltrue([for rule in var.rules : try(trimspace(rule.when) != "", false)])
    error_message = "rules: when must be a CEL expression such as \"alert.severity == 'high'\", or \"true\" for every alert."
  }
  validation {
    condition     = alltrue([for rule in var.rules : try(length(rule.then) > 0 && length(setsubtract(keys(rule.then), ["priority", "escalate", "set_status", "tags", "drop", "stop"])) == 0, false)])
    error_message = "rules: then must have at least one of priority, escalate, set_status, tags, drop and stop, and nothing else."
  }
  validation {
    condition     = alltrue([for rule in var.rules : contains(["P1", "P2", "P3", "P4"], try(coalesce(rule.then.priority, "P1"), "P1"))])
    error_message = "rules: then.priority must be P1, P2, P3 or P4."
  }
  validation {
    condition = alltrue([for rule in var.rules : contains([
      "new", "read", "escalated", "in_progress", "closed", "no_action_required", "duplicate", "not_relevant", "tracked_external",
    ], try(coalesce(rule.then.set_status, "new"), "new"))])
    error_message = "rules: then.set_status must be new, read, escalated, in_progress, closed, no_action_required, duplicate, not_relevant or tracked_external."
  }
  validation {
    condition = alltrue(flatten([for rule in var.rules : [for name in ["escalate", "drop", "stop"] :
      contains(["true", "false", "null"], try(jsonencode(rule.then[name]), "null"))
    ]]))
    error_message = "rules: then.escalate, then.drop and then.stop must be true or false, without quotation marks."
  }
  validation {
    condition = alltrue([for rule in var.rules :
      try(rule.then.tags, null) == null || try(startswith(jsonencode(rule.then.tags), "[") && alltrue([for tag in rule.then.tags : startswith(jsonencode(tag), "\"") && trimspace(tag) == tag && tag != ""]), false)
    ])
    error_message = "rules: then.tags must be a list of strings without white space around them."
  }
  validation {
    # In bytes, which length doesn't count. The whole environment: functions.tf.
    condition     = floor(length(replace(base64encode("${jsonencode(var.rules)}${var.gti.filter}"), "=", "")) * 3 / 4) <= 28672
    error_message = "rules and gti.filter: must have 28 KiB at most together, rules as JSON."
  }
}

variable "redact" {
  description = "What is masked in everything that leaves: presets (credentials, text) and paths of fields such as topics[].value; [] publishes everything as it came. docs/redaction.md has the fields."
  type        = list(string)
  default     = ["credentials"]
  nullable    = false

  validation {
    condition     = alltrue([for path in var.redact : try(path != "" && trimspace(path) == path, false)])
    error_message = "redact: an element must be a preset or a path, without white space around it."
  }
  validation {
    condition     = floor(length(replace(base64encode(jsonencode(var.redact)), "=", "")) * 3 / 4) <= 2048
    error_message = "redact: must have 2 KiB at most."
  }
}

variable "windows" {
  description = "Spans of time, as Go durations like 90s, 10m or 24h."
  type = object({
    initial_lookback = optional(string, "24h")   # how far back the first run begins
    overlap          = optional(string, "10m")   # how late alerts may come into the index to be found by the next sweep
    settle           = optional(string, "30s")   # the newest alerts, left to the next run
    max_lookback     = optional(string, "120h")  # what the API is known to answer for
    audit            = optional(string, "72h")   # each hour is read again at an age of a day and at the end of this; 0 turns it off
    updates          = optional(string, "720h")  # watched for changes; 0 turns it off
    ledger_ttl       = optional(string, "4320h") # how long an alert's record is kept
    monitors_check   = optional(string, "24h")   # from one look at the monitors to the next; 0 turns it off
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for text in values(var.windows) : text == "0" || (can(regex(local.duration_pattern, text)) && can(timeadd(local.epoch, text)))])
    error_message = "windows: every span must be a Go duration of 0 or more with the units h, m, s and ms, like 90s, 10m or 24h, in whole milliseconds and less than 292 years."
  }
  validation {
    condition     = try(timecmp(timeadd(local.epoch, var.windows.initial_lookback), timeadd(local.epoch, var.windows.settle)) > 0, true)
    error_message = "windows.initial_lookback: must be more than windows.settle, or the first run has nothing to read."
  }
  validation {
    condition     = try(timecmp(timeadd(local.epoch, var.windows.max_lookback), timeadd(local.epoch, "10m")) > 0 && timecmp(timeadd(local.epoch, var.windows.max_lookback), timeadd(timeadd(local.epoch, var.windows.overlap), var.windows.settle)) > 0, true)
    error_message = "windows.max_lookback: must be more than 10m, and more than windows.overlap and windows.settle together."
  }
  validation {
    condition     = try(timecmp(timeadd(local.epoch, var.windows.max_lookback), timeadd(local.epoch, "${coalesce(var.schedule.interval_minutes, 5)}m")) > 0, true)
    error_message = "windows.max_lookback: must be more than the time between two runs (schedule.interval_minutes), or each run leaves a gap."
  }
  validation {
    condition     = try(timecmp(timeadd(local.epoch, var.windows.max_lookback), timeadd(local.epoch, var.windows.audit)) > 0, true)
    error_message = "windows.audit: must be less than windows.max_lookback, or 0 for none."
  }
  validation {
    condition     = try(timecmp(timeadd(local.epoch, var.windows.ledger_ttl), timeadd(local.epoch, var.windows.updates)) > 0 && timecmp(timeadd(local.epoch, var.windows.ledger_ttl), timeadd(timeadd(local.epoch, var.windows.overlap), var.windows.settle)) > 0, true)
    error_message = "windows.ledger_ttl: must be more than windows.updates, and more than windows.overlap and windows.settle together, or alerts are published again."
  }
  validation {
    condition     = try(timecmp(timeadd(local.epoch, var.windows.monitors_check), timeadd(local.epoch, "1m")) >= 0 || timeadd(local.epoch, var.windows.monitors_check) == timeadd(local.epoch, "0s"), true)
    error_message = "windows.monitors_check: must be 1m or more, or 0 for never."
  }
}

# When and how it runs

variable "schedule" {
  description = "When runs begin: every interval_minutes (default 5), or by a cron expression. With cron, interval_minutes says the longest time between two runs: the alert policies count in it."
  type = object({
    interval_minutes = optional(number)
    cron             = optional(string)
    time_zone        = optional(string, "Etc/UTC")
    paused           = optional(bool, false)
  })
  default  = {}
  nullable = false

  validation {
    # What cron can say exactly: a divisor of an hour, or hours that divide a day.
    condition     = var.schedule.cron != null || contains(concat([for n in range(1, 61) : n if 60 % n == 0], [for h in range(2, 25) : 60 * h if 24 % h == 0]), coalesce(var.schedule.interval_minutes, 5))
    error_message = "schedule.interval_minutes: must be 1, 2, 3, 4, 5, 6, 10, 12, 15, 20, 30 or 60, or 2, 3, 4, 6, 8, 12 or 24 hours in minutes (120 to 1440); for other times give schedule.cron."
  }
  validation {
    condition     = var.schedule.cron == null || try(trimspace(var.schedule.cron) != "", false)
    error_message = "schedule.cron: must be a cron expression of Cloud Scheduler like 0 6 * * 1-5, not empty."
  }
  validation {
    condition     = var.schedule.cron == null || var.schedule.interval_minutes != null
    error_message = "schedule.interval_minutes: with schedule.cron it must be given too, as the longest time between two runs in minutes."
  }
  validation {
    condition     = var.schedule.interval_minutes == null ? true : var.schedule.interval_minutes >= 1 && var.schedule.interval_minutes <= 44640 && floor(var.schedule.interval_minutes) == var.schedule.interval_minutes
    error_message = "schedule.interval_minutes: must be a whole number of minutes from 1 to 44640, which are 31 days."
  }
  validation {
    condition     = try(trimspace(var.schedule.time_zone) != "", false)
    error_message = "schedule.time_zone: must be a name of the tz database like Etc/UTC or Europe/Zurich, not empty."
  }
}

variable "runtime" {
  description = "Runtime of both functions. docs/runbooks/newer-go-runtime.md says when and how to move on."
  type        = string
  default     = "go126"
  nullable    = false

  validation {
    # go.mod says go 1.26.
    condition     = try(tonumber(regex("^go1([0-9]{2})$", var.runtime)[0]) >= 26, false)
    error_message = "runtime: must be go126 or a newer Go runtime of Cloud Run functions, like go127."
  }
}

variable "log_level" {
  description = "From which severity on the functions log."
  type        = string
  default     = "info"
  nullable    = false

  validation {
    condition     = contains(["debug", "info", "warn", "error"], var.log_level)
    error_message = "log_level: must be debug, info, warn or error."
  }
}

variable "ingest" {
  description = "The function that relays. budget is when a run stops by itself; by default 30 s before the timeout, which is enough to store its position in any case. With less, the platform may cut a slow last page off, which the next run reads again. ingress is who reaches it at all, before any right is asked for."
  type = object({
    timeout_seconds = optional(number, 540)
    budget          = optional(string)
    memory          = optional(string, "512Mi")
    ingress         = optional(string, "ALLOW_ALL")
  })
  default  = {}
  nullable = false

  validation {
    # Cloud Scheduler waits 30 minutes at most, and 30 s of them are the answer's.
    condition     = var.ingest.timeout_seconds >= 60 && var.ingest.timeout_seconds <= 1770 && floor(var.ingest.timeout_seconds) == var.ingest.timeout_seconds
    error_message = "ingest.timeout_seconds: must be a whole number from 60 to 1770, because Cloud Scheduler waits for an answer 30 minutes at most."
  }
  validation {
    condition     = var.ingest.budget == null || (can(regex(local.duration_pattern, var.ingest.budget)) && can(timeadd(local.epoch, var.ingest.budget)))
    error_message = "ingest.budget: must be a Go duration with the units h, m, s and ms, like 8m or 510s, in whole milliseconds."
  }
  validation {
    condition     = try(timecmp(timeadd(local.epoch, var.ingest.budget), timeadd(local.epoch, "0")) > 0 && !(timecmp(timeadd(local.epoch, var.ingest.budget), timeadd(local.epoch, "${var.ingest.timeout_seconds - 10}s")) > 0), true)
    error_message = "ingest.budget: must be more than 0 and at least 10 s shorter than ingest.timeout_seconds, so that a run has time to end before the platform cuts it off."
  }
  validation {
    condition     = contains(["512Mi", "1Gi", "2Gi", "4Gi"], var.ingest.memory)
    error_message = "ingest.memory: must be 512Mi, 1Gi, 2Gi or 4Gi: a run holds up to 96 MiB of pages and Go's collector needs as much again, and one processor takes no more than 4Gi."
  }
  validation {
    condition     = contains(["ALLOW_ALL", "ALLOW_INTERNAL_AND_GCLB", "ALLOW_INTERNAL_ONLY"], var.ingest.ingress)
    error_message = "ingest.ingress: must be ALLOW_ALL, ALLOW_INTERNAL_AND_GCLB or ALLOW_INTERNAL_ONLY."
  }
}

variable "network" {
  description = "The way out of both functions: connector is a Serverless VPC Access connector (its id in the region, or projects/PROJECT/locations/REGION/connectors/ID), egress is what goes through it; null is Google's network. They must reach Google Threat Intelligence, which is on the internet."
  type = object({
    connector = string
    egress    = optional(string, "ALL_TRAFFIC")
  })
  default = null

  validation {
    condition     = var.network == null ? true : can(regex("^(projects/[^/]+/locations/[^/]+/connectors/)?[a-z][a-z0-9-]*$", var.network.connector))
    error_message = "network.connector: must be the id of a connector, or projects/PROJECT/locations/REGION/connectors/ID."
  }
  validation {
    condition     = var.network == null ? true : contains(["ALL_TRAFFIC", "PRIVATE_RANGES_ONLY"], var.network.egress)
    error_message = "network.egress: must be ALL_TRAFFIC or PRIVATE_RANGES_ONLY."
  }
}

variable "build" {
  description = "How the functions are built. worker_pool is a private pool of Cloud Build, projects/PROJECT/locations/REGION/workerPools/ID; by default Google's own."
  type = object({
    worker_pool = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.build.worker_pool == null || can(regex("^projects/[^/]+/locations/[^/]+/workerPools/[^/]+$", var.build.worker_pool))
    error_message = "build.worker_pool: must be projects/PROJECT/locations/REGION/workerPools/ID."
  }
}

variable "source_object" {
  description = "The functions' source as a zip in Cloud Storage, made by a pipeline; null zips the checkout that the module is in. Another source needs another object name, or nothing is built."
  type = object({
    bucket = string
    object = string
  })
  default = null

  validation {
    condition     = var.source_object == null ? true : can(regex("^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$", var.source_object.bucket)) && can(regex("\\.zip$", var.source_object.object))
    error_message = "source_object: bucket must be a bucket's name, without gs://, and object the name of a .zip in it."
  }
}

variable "service_accounts" {
  description = "Service accounts of the project that exist already, by purpose, as e-mails; the others are made. What they need is granted all the same."
  type = object({
    ingest    = optional(string)
    sync      = optional(string)
    scheduler = optional(string)
    push      = optional(string)
    alerts    = optional(string)
    bigquery  = optional(string)
    build     = optional(string)
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for email in values(var.service_accounts) : can(regex("^[a-z][a-z0-9-]{4,28}[a-z0-9]@[a-z][a-z0-9-]{4,28}[a-z0-9]\\.iam\\.gserviceaccount\\.com$", email)) if email != null])
    error_message = "service_accounts: must be e-mails such as relay@my-project.iam.gserviceaccount.com; Google's default accounts are not allowed, because too much is granted to them."
  }
  validation {
    # Cloud Scheduler: https://cloud.google.com/scheduler/docs/http-target-auth. Cloud Run's
    # own account would need a right on an account of another project, which isn't granted here.
    condition     = alltrue([for email in values(var.service_accounts) : endswith(email, "@${var.project_id}.iam.gserviceaccount.com") if email != null])
    error_message = "service_accounts: must be accounts of the project (…@${var.project_id}.iam.gserviceaccount.com): Cloud Scheduler takes no account of another one, nor do the functions without more rights than are granted here."
  }
  validation {
    condition     = length(distinct([for email in values(var.service_accounts) : email if email != null])) == length([for email in values(var.service_accounts) : email if email != null])
    error_message = "service_accounts: each purpose must have an account of its own, or one could do what is granted for another."
  }
}

variable "kms_key" {
  description = "A key of Cloud KMS in the same region for all that is stored: topics, database, secret, buckets, data set, images and functions; null is Google's keys. grants says whether Terraform gives Google's accounts the right to use it. It can't be changed afterwards for the database and the secret."
  type = object({
    name   = string # projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY
    grants = optional(bool, true)
  })
  default = null

  validation {
    condition     = var.kms_key == null ? true : can(regex("^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$", var.kms_key.name))
    error_message = "kms_key.name: must be projects/PROJECT/locations/REGION/keyRings/RING/cryptoKeys/KEY, without a version."
  }
  validation {
    condition     = var.kms_key == null ? true : try(split("/", var.kms_key.name)[3] == var.region, true)
    error_message = "kms_key.name: must be a key in the region of the functions (region), which can't use another one."
  }
  validation {
    condition = var.kms_key == null ? true : alltrue([for location in concat([var.database.location, try(var.bigquery.location, null), try(var.archive.location, null)], coalesce(var.secret.locations, [])) :
      location == null ? true : lower(location) == var.region
    ])
    error_message = "kms_key: database.location, bigquery.location, archive.location and secret.locations must be left out, or be region: a key encrypts only in its own place."
  }
}

variable "soft_delete_days" {
  description = "How long Cloud Storage keeps what was deleted from the buckets: 0, or 7 to 90 days. By default not at all for the source, which is in the repository, and Google's default for the archive."
  type        = number
  default     = null

  validation {
    # https://cloud.google.com/storage/docs/soft-delete
    condition     = var.soft_delete_days == null ? true : contains(concat([0], range(7, 91)), var.soft_delete_days)
    error_message = "soft_delete_days: must be 0, or a whole number from 7 to 90."
  }
}

variable "sync" {
  description = "The function that writes status changes back to Google Threat Intelligence. Its requests are of the same 10 at a time as those of the runs."
  type = object({
    timeout_seconds = optional(number, 300)
    memory          = optional(string, "512Mi")
    max_instances   = optional(number, 2)
    concurrency     = optional(number, 2) # requests at a time in one instance
  })
  default  = {}
  nullable = false

  validation {
    # The subscription's longest acknowledgement deadline is 600 s: a request that took longer would be sent again beside itself.
    condition     = var.sync.timeout_seconds >= 30 && var.sync.timeout_seconds <= 570 && floor(var.sync.timeout_seconds) == var.sync.timeout_seconds
    error_message = "sync.timeout_seconds: must be a whole number from 30 to 570, because Pub/Sub waits for an answer 600 seconds at most."
  }
  validation {
    condition     = contains(["512Mi", "1Gi", "2Gi", "4Gi"], var.sync.memory)
    error_message = "sync.memory: must be 512Mi, 1Gi, 2Gi or 4Gi."
  }
  validation {
    condition     = contains(range(1, 10), var.sync.max_instances) && contains(range(1, 10), var.sync.concurrency)
    error_message = "sync.max_instances and sync.concurrency: must be whole numbers from 1 to 9."
  }
}

# Pub/Sub, Firestore, Secret Manager

variable "topics" {
  description = "Names of the topics; by default dtm-alerts, dtm-rejects, dtm-status-updates, dtm-dead-letters (write-backs) and dtm-alert-dead-letters, followed by the feed's name when it is not default. retention_days is how far back a subscription to the alerts can be rewound."
  type = object({
    alerts             = optional(string)
    rejects            = optional(string)
    status             = optional(string)
    dead_letters       = optional(string) # of write-backs
    alert_dead_letters = optional(string)
    retention_days     = optional(number, 7)
    regions            = optional(list(string)) # where messages may be stored; by default anywhere
  })
  default  = {}
  nullable = false

  validation {
    condition = alltrue([for name in compact([var.topics.alerts, var.topics.rejects, var.topics.status, var.topics.dead_letters, var.topics.alert_dead_letters]) :
      can(regex("^[A-Za-z][A-Za-z0-9._~+%-]{2,249}$", name)) && !startswith(name, "goog") # with -push or -pull, a subscription's name of 255
    ])
    error_message = "topics: a name must be a letter, then 2 to 249 letters, digits and -._~+%, not beginning with goog (the id alone, without projects/…/topics/)."
  }
  validation {
    condition = length(distinct([
      coalesce(var.topics.alerts, "dtm-alerts${local.suffix}"),
      coalesce(var.topics.rejects, "dtm-rejects${local.suffix}"),
      coalesce(var.topics.status, "dtm-status-updates${local.suffix}"),
      coalesce(var.topics.dead_letters, "dtm-dead-letters${local.suffix}"),
      coalesce(var.topics.alert_dead_letters, "dtm-alert-dead-letters${local.suffix}"),
    ])) == 5
    error_message = "topics: alerts, rejects, status, dead_letters and alert_dead_letters must be five different names."
  }
  validation {
    condition     = contains(range(1, 32), var.topics.retention_days)
    error_message = "topics.retention_days: must be a whole number from 1 to 31."
  }
  validation {
    condition     = var.topics.regions == null ? true : length(var.topics.regions) > 0 && alltrue([for r in var.topics.regions : try(trimspace(r) != "", false)])
    error_message = "topics.regions: must be one region or more, such as [\"europe-west1\"], or be left out."
  }
}

variable "alert_subscriptions" {
  description = "Subscriptions to the alerts, by name: pull, or into a BigQuery table (PROJECT.DATASET.TABLE), or pushed to an HTTPS receiver. filter is a Pub/Sub filter such as attributes.priority = \"P1\"; empty is everything. subscribers may pull from this one; alert_subscribers from all that are pulled."
  type = map(object({
    filter         = optional(string, "")
    bigquery_table = optional(string)
    push_endpoint  = optional(string)
    push_audience  = optional(string)           # of the token that the receiver gets; by default the endpoint
    subscribers    = optional(list(string), []) # members that may pull from this one alone
  }))
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for s in values(var.alert_subscriptions) : s != null])
    error_message = "alert_subscriptions: a subscription must be an object, not null; {} is one that is pulled and gets everything."
  }
  validation {
    condition     = alltrue([for name in keys(var.alert_subscriptions) : can(regex("^[a-z][a-z0-9-]{0,62}$", name)) && name != "rejects"])
    error_message = "alert_subscriptions: a name must be a small letter, then up to 62 small letters, digits and dashes, and not rejects, which is another one's in the output subscriptions."
  }
  validation {
    condition     = alltrue([for name in keys(var.alert_subscriptions) : length("${coalesce(var.topics.alerts, "dtm-alerts${local.suffix}")}-${name}") <= 255])
    error_message = "alert_subscriptions: a name and that of topics.alerts together must have 254 characters at most, because the subscription is called TOPIC-NAME."
  }
  validation {
    # https://cloud.google.com/pubsub/docs/subscription-message-filter
    condition     = alltrue([for s in values(var.alert_subscriptions) : floor(length(replace(base64encode(s.filter), "=", "")) * 3 / 4) <= 256 if s != null])
    error_message = "alert_subscriptions.filter: must have 256 bytes at most."
  }
  validation {
    condition     = alltrue([for s in values(var.alert_subscriptions) : s.bigquery_table == null || s.push_endpoint == null if s != null])
    error_message = "alert_subscriptions: a subscription has bigquery_table or push_endpoint or neither, not both."
  }
  validation {
    condition     = alltrue([for s in values(var.alert_subscriptions) : s.bigquery_table == null || can(regex("^[^.]+\\.[^.]+\\.[^.]+$", s.bigquery_table)) if s != null])
    error_message = "alert_subscriptions.bigquery_table: must be PROJECT.DATASET.TABLE."
  }
  validation {
    condition     = alltrue([for s in values(var.alert_subscriptions) : s.push_endpoint == null ? s.push_audience == null : can(regex("^https://[^\\s/@?#]+([/?][^\\s#]*)?$", s.push_endpoint)) if s != null])
    error_message = "alert_subscriptions.push_endpoint: must be https://HOST/PATH or https://HOST:PORT/PATH, without a user and a password, which would stand in Terraform's state; push_audience goes only with it."
  }
  validation {
    condition     = alltrue(flatten([for s in values(var.alert_subscriptions) : [for m in s.subscribers : can(regex("^(user|group|serviceAccount|principal|principalSet):\\S+$", m))] if s != null]))
    error_message = "alert_subscriptions.subscribers: must be members such as group:soc@example.com; user:, group:, serviceAccount:, principal: and principalSet: are allowed, everybody is not."
  }
  validation {
    condition     = alltrue([for s in values(var.alert_subscriptions) : length(s.subscribers) == 0 || (s.bigquery_table == null && s.push_endpoint == null) if s != null])
    error_message = "alert_subscriptions.subscribers: go only without bigquery_table and push_endpoint: nobody pulls from a subscription that Pub/Sub delivers by itself."
  }
}

# Who may what

variable "operators" {
  description = "E-mails of the people and service accounts that may begin runs and ask for backfills over HTTP. They get roles/run.invoker on Ingest. Once there is one, nobody else may write, whatever roles they have; Cloud Scheduler stays. Empty: whoever has roles/run.invoker."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for e in var.operators : can(regex("^[a-z0-9][a-z0-9._%+'-]*@[a-z0-9-]+(\\.[a-z0-9-]+)+$", e))])
    error_message = "operators: must be e-mails in small letters such as ana@example.com, without user: or serviceAccount:. A group can't be one, because the functions see the person's e-mail alone."
  }
  validation {
    condition     = length(distinct(var.operators)) == length(var.operators)
    error_message = "operators: nobody can be named twice."
  }
}

variable "viewers" {
  description = "E-mails of the people and service accounts that may read status, backfills and the records of alerts over HTTP, and nothing else. They get roles/run.invoker on Ingest. Only with operators."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for e in var.viewers : can(regex("^[a-z0-9][a-z0-9._%+'-]*@[a-z0-9-]+(\\.[a-z0-9-]+)+$", e))])
    error_message = "viewers: must be e-mails in small letters such as ana@example.com, without user: or serviceAccount:. A group can't be one, because the functions see the person's e-mail alone."
  }
  validation {
    condition     = length(setintersection(var.operators, var.viewers)) == 0 && length(distinct(var.viewers)) == length(var.viewers)
    error_message = "viewers: nobody can be named twice, nor here and in operators, who may read too."
  }
  validation {
    condition     = length(var.viewers) == 0 || length(var.operators) > 0
    error_message = "viewers: go only with operators. Without these, whoever may call may also write, so the viewers could begin runs."
  }
}

variable "status_publishers" {
  description = "Members of a policy (user:, group:, serviceAccount:, principal:, principalSet:) that may publish to the status topic: they set the status and tags of every alert."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for m in var.status_publishers : can(regex("^(user|group|serviceAccount|principal|principalSet):\\S+$", m))])
    error_message = "status_publishers: must be members such as serviceAccount:soar@my-project.iam.gserviceaccount.com; user:, group:, serviceAccount:, principal: and principalSet: are allowed, everybody is not."
  }
}

variable "alert_subscribers" {
  description = "Members of a policy (user:, group:, serviceAccount:, principal:, principalSet:) that may pull from all of alert_subscriptions that are pulled. alert_subscriptions.subscribers may pull from one."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for m in var.alert_subscribers : can(regex("^(user|group|serviceAccount|principal|principalSet):\\S+$", m))])
    error_message = "alert_subscribers: must be members such as group:soc@example.com; user:, group:, serviceAccount:, principal: and principalSet: are allowed, everybody is not."
  }
  validation {
    condition     = length(var.alert_subscribers) == 0 || anytrue([for s in values(var.alert_subscriptions) : s.bigquery_table == null && s.push_endpoint == null if s != null])
    error_message = "alert_subscribers: there is nothing to pull from: alert_subscriptions needs a subscription without bigquery_table and push_endpoint, such as siem = {}."
  }
}

# Consumers without code

variable "bigquery" {
  description = "Writes every version of every alert into a table of BigQuery, with views over it; null for none. dataset is the data set's id, by default made of name and feed; location is region by default. expiration_days is how long a row is kept after it was published; without it, for ever."
  type = object({
    dataset         = optional(string)
    location        = optional(string)
    expiration_days = optional(number)
  })
  default = null

  validation {
    condition     = var.bigquery == null ? true : var.bigquery.dataset == null || can(regex("^[A-Za-z0-9_]{1,1024}$", var.bigquery.dataset))
    error_message = "bigquery.dataset: must be 1 to 1024 letters, digits and underscores."
  }
  validation {
    condition     = var.bigquery == null ? true : var.bigquery.location == null || try(trimspace(var.bigquery.location) != "", false)
    error_message = "bigquery.location: must be a location of BigQuery like EU or europe-west1, not empty."
  }
  validation {
    condition     = var.bigquery == null ? true : var.bigquery.expiration_days == null ? true : var.bigquery.expiration_days >= 1 && var.bigquery.expiration_days <= 36500 && floor(var.bigquery.expiration_days) == var.bigquery.expiration_days
    error_message = "bigquery.expiration_days: must be a whole number from 1 to 36500."
  }
  validation {
    condition     = var.bigquery == null || !contains(keys(var.alert_subscriptions), "bigquery")
    error_message = "bigquery: its subscription has the name of alert_subscriptions.bigquery: give that one another."
  }
}

variable "notify" {
  description = "Tells people of alerts, by name: to is slack, google_chat, pagerduty or webhook; url is the receiver's webhook (for pagerduty by default its Events API); routing_key is PagerDuty's integration key; filter is a Pub/Sub filter. They get title, type, severity, monitor, link, priority, event and status, and nothing else of an alert. url and routing_key stand in Terraform's state."
  type = map(object({
    to          = string
    url         = optional(string)
    routing_key = optional(string)
    filter      = optional(string, "attributes.priority = \"P1\" AND attributes.event = \"created\"")
  }))
  default   = {}
  nullable  = false
  sensitive = true

  validation {
    condition     = alltrue([for n in values(var.notify) : n != null])
    error_message = "notify: a receiver must be an object such as { to = \"slack\", url = \"https://…\" }, not null."
  }
  validation {
    condition     = alltrue([for name in keys(var.notify) : can(regex("^[a-z][a-z0-9-]{0,62}$", name))])
    error_message = "notify: a name must be a small letter, then up to 62 small letters, digits and dashes."
  }
  validation {
    condition     = alltrue([for name in keys(var.notify) : !contains(keys(var.alert_subscriptions), "notify-${name}")])
    error_message = "notify: the subscription of NAME is called notify-NAME, which is one of alert_subscriptions already."
  }
  validation {
    condition     = alltrue([for name in keys(var.notify) : length("${coalesce(var.topics.alerts, "dtm-alerts${local.suffix}")}-notify-${name}") <= 255])
    error_message = "notify: a name and that of topics.alerts together must have 247 characters at most, because the subscription is called TOPIC-notify-NAME."
  }
  validation {
    condition     = alltrue([for n in values(var.notify) : contains(["slack", "google_chat", "pagerduty", "webhook"], n.to) if n != null])
    error_message = "notify.to: must be slack, google_chat, pagerduty or webhook."
  }
  validation {
    condition     = alltrue([for n in values(var.notify) : n.url == null ? n.to == "pagerduty" : can(regex("^https://[^\\s/@?#]+([/?][^\\s#]*)?$", n.url)) if n != null])
    error_message = "notify.url: must be https://HOST/PATH or https://HOST:PORT/PATH, without a user; only pagerduty goes without it."
  }
  validation {
    condition     = alltrue([for n in values(var.notify) : n.to == "pagerduty" ? can(regex("^[A-Za-z0-9]{32}$", n.routing_key)) : n.routing_key == null if n != null])
    error_message = "notify.routing_key: pagerduty needs its integration key of 32 letters and digits, and no other receiver takes one."
  }
  validation {
    # https://cloud.google.com/pubsub/docs/subscription-message-filter
    condition     = alltrue([for n in values(var.notify) : try(floor(length(replace(base64encode(n.filter), "=", "")) * 3 / 4) <= 256, false) if n != null])
    error_message = "notify.filter: must have 256 bytes at most, and not be null; empty is everything."
  }
}

variable "archive" {
  description = "Writes every version of every alert into files of a bucket of its own, as lines of JSON; null for none. location is region by default. retention_days is how long nobody can delete or change a file; lock makes that final; hold keeps every file until somebody releases it."
  type = object({
    location       = optional(string)
    retention_days = optional(number)
    lock           = optional(bool, false)
    hold           = optional(bool, false)
  })
  default = null

  validation {
    condition     = var.archive == null ? true : var.archive.location == null || try(trimspace(var.archive.location) != "", false)
    error_message = "archive.location: must be a location of Cloud Storage like EU or europe-west1, not empty."
  }
  validation {
    # https://cloud.google.com/storage/docs/bucket-lock: 100 years.
    condition     = var.archive == null ? true : var.archive.retention_days == null ? true : var.archive.retention_days >= 1 && var.archive.retention_days <= 36500 && floor(var.archive.retention_days) == var.archive.retention_days
    error_message = "archive.retention_days: must be a whole number from 1 to 36500."
  }
  validation {
    condition     = var.archive == null ? true : !var.archive.lock || var.archive.retention_days != null
    error_message = "archive.lock: goes only with archive.retention_days, which it makes final."
  }
  validation {
    condition     = var.archive == null || !contains(keys(var.alert_subscriptions), "archive")
    error_message = "archive: its subscription has the name of alert_subscriptions.archive: give that one another."
  }
}

variable "database" {
  description = "The Firestore database: one of its own (name and location), or an existing one by name. policies says whether this instance sets the TTL policies and index exemptions of an existing one: exactly one of the instances that share a database should. They are for every collection named alerts or backfills in it, whoever's: see docs/security.md."
  type = object({
    name     = optional(string)
    location = optional(string)
    existing = optional(string)
    policies = optional(bool)

    point_in_time_recovery = optional(bool, false) # every state of the last 7 days can be read and exported
    daily_backup_days      = optional(number)      # how long each day's backup is kept; by default there is none
    weekly_backup_days     = optional(number)      # the same, of each Sunday's
  })
  default  = {}
  nullable = false

  validation {
    condition = alltrue([for id in [var.database.existing, var.database.name, local.name] :
      can(regex("^(\\(default\\)|[a-z][a-z0-9-]{2,61}[a-z0-9])$", id))
      if id != null
    ])
    error_message = "database.name and database.existing: must be (default), or 4 to 63 small letters, digits and dashes, beginning with a letter and not ending with a dash."
  }
  validation {
    condition     = var.database.location == null || try(trimspace(var.database.location) != "", false)
    error_message = "database.location: must be a location of Firestore like europe-west1 or nam5, not empty."
  }
  validation {
    condition     = var.database.existing == null || (var.database.name == null && var.database.location == null)
    error_message = "database.existing: goes without database.name and database.location, which are of a database that is made here."
  }
  validation {
    condition     = (var.database.existing == null) == (var.database.policies == null)
    error_message = "database.policies: must be given with database.existing, and only with it: true if this instance sets the TTL policies and index exemptions, false if another one does."
  }
  validation {
    condition     = !(var.database.point_in_time_recovery && var.database.existing != null)
    error_message = "database.point_in_time_recovery: goes without database.existing: set it where that database is made."
  }
  validation {
    condition = alltrue([for days in [var.database.daily_backup_days, var.database.weekly_backup_days] :
      days == null ? true : days >= 1 && days <= 98 && floor(days) == days
    ])
    error_message = "database.daily_backup_days and database.weekly_backup_days: must be whole numbers from 1 to 98, because Firestore keeps a backup 14 weeks at most."
  }
  validation {
    condition     = (var.database.daily_backup_days == null && var.database.weekly_backup_days == null) || var.database.existing == null || var.database.policies == true
    error_message = "database.daily_backup_days and database.weekly_backup_days: with database.existing they go only with database.policies = true: a database takes one schedule of each kind, so one of the instances that share it sets them."
  }
}

variable "secret" {
  description = "The secret with the API key: one of its own without a version, or an existing one (its id, or projects/PROJECT/secrets/ID). version is latest, or a number that pins one."
  type = object({
    existing  = optional(string)
    version   = optional(string, "latest")
    locations = optional(list(string)) # of its replicas; by default Google chooses
  })
  default  = {}
  nullable = false

  validation {
    condition     = var.secret.existing == null || (can(regex("^(projects/[a-z0-9-]+/secrets/)?[A-Za-z0-9_-]{1,255}$", var.secret.existing)) && !can(regex("[0-9a-f]{64}$", var.secret.existing))) # a key is 64 such digits
    error_message = "secret.existing: must be the id of a secret, or projects/PROJECT/secrets/ID, without a version. Never the key itself, nor what looks like one (64 hexadecimal digits)."
  }
  validation {
    condition     = can(regex("^(latest|[1-9][0-9]*)$", var.secret.version))
    error_message = "secret.version: must be latest or the number of a version."
  }
  validation {
    condition     = var.secret.locations == null ? true : length(var.secret.locations) > 0 && length(distinct(var.secret.locations)) == length(var.secret.locations) && alltrue([for l in var.secret.locations : try(trimspace(l) != "", false)])
    error_message = "secret.locations: must be one region or more, each once, or be left out."
  }
  validation {
    condition     = var.secret.locations == null || var.secret.existing == null
    error_message = "secret.locations: goes without secret.existing, which lies where it lies."
  }
}

variable "deletion_protection" {
  description = "Whether terraform destroy leaves the database, which nobody can delete by mistake then. Without its ledger, all alerts within the look-back are published once more."
  type        = bool
  default     = true
  nullable    = false
}

variable "monitoring" {
  description = "Alert policies and dashboard: whom they notify and where their bounds lie."
  type = object({
    enabled               = optional(bool, true)
    emails                = optional(list(string), []) # each becomes a notification channel
    notification_channels = optional(list(string), []) # projects/…/notificationChannels/…
    runbook_url           = optional(string)           # where docs/runbooks can be read
    lag_minutes           = optional(number, 60)       # position older than this
    age_minutes           = optional(number, 60)       # oldest message of a subscription older than this
    errors_left           = optional(number)           # of the error answers at which runs stop; by default 2/5 of them
    requests_share        = optional(number, 0.9)      # of MAX_REQUESTS_PER_DAY
  })
  default  = {}
  nullable = false

  validation {
    condition     = alltrue([for e in var.monitoring.emails : can(regex("^[^\\s@]+@[^\\s@]+\\.[^\\s@]+$", e))])
    error_message = "monitoring.emails: must be e-mail addresses such as soc@example.com."
  }
  validation {
    condition     = length(distinct([for e in var.monitoring.emails : lower(e)])) == length(var.monitoring.emails)
    error_message = "monitoring.emails: must name each address once."
  }
  validation {
    condition     = alltrue([for c in var.monitoring.notification_channels : can(regex("^projects/[^/]+/notificationChannels/[^/]+$", c))])
    error_message = "monitoring.notification_channels: must be names like projects/PROJECT/notificationChannels/ID."
  }
  validation {
    # https://cloud.google.com/monitoring/quotas
    condition     = length(var.monitoring.emails) + length(var.monitoring.notification_channels) <= 16
    error_message = "monitoring.emails and monitoring.notification_channels: must be 16 at most together, because an alert policy takes no more."
  }
  validation {
    # A page's name is put after it.
    condition     = var.monitoring.runbook_url == null ? true : can(regex("^https://[^\\s()?#]+[^\\s()?#/]$", var.monitoring.runbook_url))
    error_message = "monitoring.runbook_url: must be an https address of the folder docs/runbooks, without a slash at its end and without white space, brackets, ? and #."
  }
  validation {
    condition     = var.monitoring.lag_minutes > 0
    error_message = "monitoring.lag_minutes: must be more than 0."
  }
  validation {
    condition     = var.monitoring.age_minutes > 0
    error_message = "monitoring.age_minutes: must be more than 0."
  }
  validation {
    condition = var.monitoring.errors_left == null ? true : (
      var.monitoring.errors_left >= 1 && var.monitoring.errors_left < floor(var.gti.max_errors_per_hour / 2) && floor(var.monitoring.errors_left) == var.monitoring.errors_left
    )
    error_message = "monitoring.errors_left: must be a whole number of 1 or more, and less than half of gti.max_errors_per_hour, at which runs stop."
  }
  validation {
    condition     = var.monitoring.requests_share > 0 && var.monitoring.requests_share <= 1
    error_message = "monitoring.requests_share: must be more than 0 and at most 1."
  }
}
