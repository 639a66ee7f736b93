# What looks like a mistake and is none. The bounds themselves are allowed.

mock_provider "google" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id = "my-project"
  monitoring = { emails = ["soc@example.com"] }
}

run "the_least_errors" {
  command = plan
  variables {
    gti        = { max_errors_per_hour = 10 }
    monitoring = { errors_left = 4, emails = ["soc@example.com"] }
  }
}

run "the_most_errors" {
  command = plan
  variables {
    gti        = { max_errors_per_hour = 10000 }
    monitoring = { errors_left = 4999, emails = ["soc@example.com"] }
  }
}

run "monitors_checked_each_minute" {
  command = plan
  variables {
    windows = { monitors_check = "1m" }
  }
}

run "monitors_never_checked" {
  command = plan
  variables {
    windows = { monitors_check = "0" }
  }
}

run "the_bounds_of_both_functions_together" {
  command = plan
  variables {
    gti      = { filter = "{\"mscore_gte\":0}", max_concurrency = 9, max_qps = 1000, max_requests_per_day = 1 }
    sync     = { timeout_seconds = 570, max_instances = 1, concurrency = 1, memory = "4Gi" }
    windows  = { overlap = "0", settle = "0s", initial_lookback = "1s", max_lookback = "10m1s", audit = "10m", updates = "1.5h", ledger_ttl = "1h30m1s" }
    schedule = { interval_minutes = 10, time_zone = "America/Argentina/Buenos_Aires" }
    ingest   = { timeout_seconds = 60, budget = "50s", memory = "512Mi" }
    database = { name = "(default)", location = "nam5" }
  }
}

run "what_looks_odd_and_is_right" {
  command = plan
  variables {
    region    = "europe-central2"
    feed      = null
    log_level = null
    labels    = { for n in range(57) : "label${n}" => "" }
    gti = {
      filter             = "{ \"search\" : \"a \\\"severity\\\": b\", \"tags\":[\"5\",\"true\",\"mscore_gte\"], \"mscore_gte\" : 50 }"
      max_alerts_per_run = 1000000000, max_requests_per_day = 1000000000, base_url = "https://gti.example.com:65535/api%2Fv3/"
    }
    windows  = { settle = "1.5s", overlap = "0.0001h", max_lookback = "745h" }
    schedule = { cron = "0,30 00-23/2 1 JAN-MAR,12 7", interval_minutes = 44640, time_zone = "EST5EDT" }
    ingest   = { budget = "0.5m" }
    topics   = { alerts = join("", [for n in range(245) : "a"]), rejects = join("", [for n in range(250) : "a"]) }
    alert_subscriptions = {
      nine-long = { filter = "attributes.ab = \"${join("", [for n in range(119) : "ü"])}\"" }
      pushed    = { push_endpoint = "https://soar.example.com:8443/hook?feed=a@b", filter = "NOT (attributes:origin AND -hasPrefix(attributes.reason, \"(\"))" }
    }
    database   = { existing = "f47ac10b-58cc-4372-a567-0e02b2c3d47", policies = false }
    secret     = { existing = join("", [for n in range(8) : "0123ABCD"]) }
    monitoring = { notification_channels = [for n in range(16) : "projects/p/notificationChannels/${n}"] }
  }
}

# What is Google's to judge goes through: what it adds needs no change here.
run "what_google_may_add" {
  command = plan
  variables {
    region   = "mars-north1"
    labels   = { été = "équipe" }
    schedule = { cron = "every 5 minutes", interval_minutes = 5, time_zone = "Mars/Olympus" }
    database = { location = "sol3" }
    alert_subscriptions = {
      table = { bigquery_table = "my-project.dtm.alerts 2026", filter = "attributes.priority IN (\"P1\")" }
    }
  }
}
