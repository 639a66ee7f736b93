# What terraform plan refuses. The messages name the variable and what is allowed.

mock_provider "google" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id = "my-project"
  monitoring = { emails = ["soc@example.com"] }
}

run "project_id_is_a_number" {
  command = plan
  variables {
    project_id = "123456789012"
  }
  expect_failures = [var.project_id]
}

run "project_id_with_capitals" {
  command = plan
  variables {
    project_id = "My-Project"
  }
  expect_failures = [var.project_id]
}

run "region_of_nothing" {
  command = plan
  variables {
    region = ""
  }
  expect_failures = [var.region]
}

run "name_with_capitals" {
  command = plan
  variables {
    name = "DTM"
  }
  expect_failures = [var.name]
}

run "name_too_short_for_a_database" {
  command = plan
  variables {
    name = "dtm"
  }
  expect_failures = [var.name]
}

run "feed_with_capitals" {
  command = plan
  variables {
    feed = "EMEA"
  }
  expect_failures = [var.feed]
}

run "feed_too_long" {
  command = plan
  variables {
    feed = "a-feed-with-a-name-of-thirty-three"
  }
  expect_failures = [var.feed]
}

run "label_with_too_long_a_value" {
  command = plan
  variables {
    labels = { team = join("", [for n in range(64) : "x"]) }
  }
  expect_failures = [var.labels]
}

run "labels_beyond_what_google_takes" {
  command = plan
  variables {
    labels = { for n in range(58) : "label${n}" => "x" }
  }
  expect_failures = [var.labels]
}

run "filter_is_no_json" {
  command = plan
  variables {
    gti = { filter = "severity=high" }
  }
  expect_failures = [var.gti]
}

run "filter_is_a_list" {
  command = plan
  variables {
    gti = { filter = "[]" }
  }
  expect_failures = [var.gti]
}

run "filter_with_an_unknown_name" {
  command = plan
  variables {
    gti = { filter = "{\"sevrity\":[\"high\"]}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_an_unknown_severity" {
  command = plan
  variables {
    gti = { filter = "{\"severity\":[\"critical\"]}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_an_unknown_status" {
  command = plan
  variables {
    gti = { filter = "{\"status\":[\"open\"]}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_string_for_a_list" {
  command = plan
  variables {
    gti = { filter = "{\"monitor_id\":\"m1\"}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_score_below_zero" {
  command = plan
  variables {
    gti = { filter = "{\"mscore_gte\":-1}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_score_in_quotes" {
  command = plan
  variables {
    gti = { filter = "{\"mscore_gte\":\"50\"}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_score_too_high" {
  command = plan
  variables {
    gti = { filter = "{\"mscore_gte\":101}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_score_in_words" {
  command = plan
  variables {
    gti = { filter = "{\"mscore_gte\":\"high\"}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_an_analysis_in_words" {
  command = plan
  variables {
    gti = { filter = "{\"has_analysis\":\"yes\"}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_an_analysis_of_null" {
  command = plan
  variables {
    gti = { filter = "{\"has_analysis\":null}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_boolean_in_quotes" {
  command = plan
  variables {
    gti = { filter = "{\"has_analysis\":\"true\"}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_search_for_a_number" {
  command = plan
  variables {
    gti = { filter = "{\"search\":5}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_search_of_a_list" {
  command = plan
  variables {
    gti = { filter = "{\"search\":[\"a\"]}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_search_of_null" {
  command = plan
  variables {
    gti = { filter = "{\"search\":null}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_numbers_for_tags" {
  command = plan
  variables {
    gti = { filter = "{\"tags\":[1,2]}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_booleans_for_tags" {
  command = plan
  variables {
    gti = { filter = "{\"tags\":[true]}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_an_object_for_a_list" {
  command = plan
  variables {
    gti = { filter = "{\"tags\":{\"a\":\"b\"}}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_null_for_a_list" {
  command = plan
  variables {
    gti = { filter = "{\"tags\":null}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_an_empty_tag" {
  command = plan
  variables {
    gti = { filter = "{\"tags\":[\"a\",\" \"]}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_score_with_a_fraction" {
  command = plan
  variables {
    gti = { filter = "{\"mscore_gte\":50.5}" }
  }
  expect_failures = [var.gti]
}

run "filter_with_a_score_of_null" {
  command = plan
  variables {
    gti = { filter = "{\"mscore_gte\":null}" }
  }
  expect_failures = [var.gti]
}

run "filter_too_long" {
  command = plan
  variables {
    gti = { filter = jsonencode({ search = join("", [for n in range(1024) : "thirty-two letters in each of it"]) }) }
  }
  expect_failures = [var.gti]
}

run "no_concurrency" {
  command = plan
  variables {
    gti = { max_concurrency = 0 }
  }
  expect_failures = [var.gti]
}

run "concurrency_of_both_functions_too_high" {
  command = plan
  variables {
    gti = { max_concurrency = 8 }
  }
  expect_failures = [var.gti]
}

run "concurrency_of_sync_too_high" {
  command = plan
  variables {
    sync = { max_instances = 3 }
  }
  expect_failures = [var.gti]
}

run "no_rate" {
  command = plan
  variables {
    gti = { max_qps = 0 }
  }
  expect_failures = [var.gti]
}

run "rate_of_nearly_nothing" {
  command = plan
  variables {
    gti = { max_qps = 0.0001 }
  }
  expect_failures = [var.gti]
}

run "rate_too_high" {
  command = plan
  variables {
    gti = { max_qps = 1001 }
  }
  expect_failures = [var.gti]
}

run "no_requests" {
  command = plan
  variables {
    gti = { max_requests_per_day = 0 }
  }
  expect_failures = [var.gti]
}

run "requests_beyond_an_integer" {
  command = plan
  variables {
    gti = { max_requests_per_day = 1e20 }
  }
  expect_failures = [var.gti]
}

run "too_few_errors" {
  command = plan
  variables {
    gti = { max_errors_per_hour = 9 }
  }
  expect_failures = [var.gti]
}

run "too_many_errors" {
  command = plan
  variables {
    gti = { max_errors_per_hour = 10001 }
  }
  expect_failures = [var.gti]
}

run "half_an_error" {
  command = plan
  variables {
    gti = { max_errors_per_hour = 10.5 }
  }
  expect_failures = [var.gti]
}

run "no_error_left" {
  command = plan
  variables {
    gti        = { max_errors_per_hour = 10 }
    monitoring = { errors_left = 5 }
  }
  expect_failures = [var.monitoring]
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

run "alerts_beyond_an_integer" {
  command = plan
  variables {
    gti = { max_alerts_per_run = 1e20 }
  }
  expect_failures = [var.gti]
}

run "half_an_alert" {
  command = plan
  variables {
    gti = { max_alerts_per_run = 0.5 }
  }
  expect_failures = [var.gti]
}

run "base_url_unencrypted" {
  command = plan
  variables {
    gti = { base_url = "http://gti.example.com" }
  }
  expect_failures = [var.gti]
}

run "base_url_with_a_user" {
  command = plan
  variables {
    gti = { base_url = "https://user:password@gti.example.com/" }
  }
  expect_failures = [var.gti]
}

run "base_url_with_a_query" {
  command = plan
  variables {
    gti = { base_url = "https://gti.example.com/?key=1" }
  }
  expect_failures = [var.gti]
}

run "tool_name_with_a_line_break" {
  command = plan
  variables {
    gti = { tool_name = "a\nb" }
  }
  expect_failures = [var.gti]
}

run "window_without_a_unit" {
  command = plan
  variables {
    windows = { overlap = "10" }
  }
  expect_failures = [var.windows]
}

run "window_in_days" {
  command = plan
  variables {
    windows = { updates = "30d" }
  }
  expect_failures = [var.windows]
}

run "window_finer_than_a_millisecond" {
  command = plan
  variables {
    windows = { overlap = "1.5ms" }
  }
  expect_failures = [var.windows]
}

run "window_longer_than_a_go_duration" {
  command = plan
  variables {
    windows = { max_lookback = "3000000h" }
  }
  expect_failures = [var.windows]
}

run "window_negative" {
  command = plan
  variables {
    windows = { settle = "-1s" }
  }
  expect_failures = [var.windows]
}

run "initial_lookback_within_settle" {
  command = plan
  variables {
    windows = { initial_lookback = "30s" }
  }
  expect_failures = [var.windows]
}

run "max_lookback_too_short" {
  command = plan
  variables {
    windows = { max_lookback = "10m", audit = "0", overlap = "0" }
  }
  expect_failures = [var.windows]
}

run "max_lookback_within_overlap" {
  command = plan
  variables {
    windows = { max_lookback = "100h", overlap = "100h" }
  }
  expect_failures = [var.windows]
}

run "max_lookback_shorter_than_the_interval" {
  command = plan
  variables {
    windows  = { max_lookback = "5h", audit = "0" }
    schedule = { interval_minutes = 360 }
  }
  expect_failures = [var.windows]
}

run "audit_beyond_max_lookback" {
  command = plan
  variables {
    windows = { audit = "120h" }
  }
  expect_failures = [var.windows]
}

run "ledger_forgets_what_is_watched" {
  command = plan
  variables {
    windows = { ledger_ttl = "720h" }
  }
  expect_failures = [var.windows]
}

run "ledger_forgets_what_is_read_again" {
  command = plan
  variables {
    windows = { ledger_ttl = "20h", updates = "0", overlap = "20h" }
  }
  expect_failures = [var.windows]
}

run "monitors_checked_too_often" {
  command = plan
  variables {
    windows = { monitors_check = "59.999s" }
  }
  expect_failures = [var.windows]
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

run "interval_that_cron_can_not_say" {
  command = plan
  variables {
    schedule = { interval_minutes = 7 }
  }
  expect_failures = [var.schedule]
}

run "interval_of_seven_hours" {
  command = plan
  variables {
    schedule = { interval_minutes = 420 }
  }
  expect_failures = [var.schedule]
}

run "interval_of_nothing" {
  command = plan
  variables {
    schedule = { interval_minutes = 0 }
  }
  expect_failures = [var.schedule]
}

run "interval_of_half_a_minute" {
  command = plan
  variables {
    schedule = { cron = "* * * * *", interval_minutes = 0.5 }
  }
  expect_failures = [var.schedule]
}

run "cron_of_nothing" {
  command = plan
  variables {
    schedule = { cron = " ", interval_minutes = 1440 }
  }
  expect_failures = [var.schedule]
}

run "cron_without_an_interval" {
  command = plan
  variables {
    schedule = { cron = "0 6 * * *" }
  }
  expect_failures = [var.schedule]
}

run "cron_with_an_interval_of_months" {
  command = plan
  variables {
    schedule = { cron = "0 0 1 */2 *", interval_minutes = 44641 }
  }
  expect_failures = [var.schedule]
}

run "time_zone_of_nothing" {
  command = plan
  variables {
    schedule = { time_zone = "" }
  }
  expect_failures = [var.schedule]
}

run "runtime_too_old" {
  command = plan
  variables {
    runtime = "go125"
  }
  expect_failures = [var.runtime]
}

run "runtime_of_another_language" {
  command = plan
  variables {
    runtime = "python313"
  }
  expect_failures = [var.runtime]
}

run "message_format_unknown" {
  command = plan
  variables {
    message_format = "Incident"
  }
  expect_failures = [var.message_format]
}

run "log_level_unknown" {
  command = plan
  variables {
    log_level = "verbose"
  }
  expect_failures = [var.log_level]
}

run "timeout_beyond_the_schedulers" {
  command = plan
  variables {
    ingest = { timeout_seconds = 1771 }
  }
  expect_failures = [var.ingest]
}

run "timeout_too_short" {
  command = plan
  variables {
    ingest = { timeout_seconds = 59 }
  }
  expect_failures = [var.ingest]
}

run "budget_longer_than_the_timeout" {
  command = plan
  variables {
    ingest = { budget = "9m" }
  }
  expect_failures = [var.ingest]
}

run "budget_without_time_to_store" {
  command = plan
  variables {
    ingest = { budget = "531s" }
  }
  expect_failures = [var.ingest]
}

run "budget_without_a_unit" {
  command = plan
  variables {
    ingest = { budget = "300" }
  }
  expect_failures = [var.ingest]
}

run "budget_finer_than_a_millisecond" {
  command = plan
  variables {
    ingest = { budget = "10s1.5ms" }
  }
  expect_failures = [var.ingest]
}

run "budget_longer_than_a_go_duration" {
  command = plan
  variables {
    ingest = { budget = "3000000h" }
  }
  expect_failures = [var.ingest]
}

run "budget_of_nothing" {
  command = plan
  variables {
    ingest = { budget = "0s" }
  }
  expect_failures = [var.ingest]
}

run "memory_below_what_go_needs" {
  command = plan
  variables {
    ingest = { memory = "256Mi" }
  }
  expect_failures = [var.ingest]
}

run "memory_beyond_one_processor" {
  command = plan
  variables {
    ingest = { memory = "8Gi" }
  }
  expect_failures = [var.ingest]
}

run "memory_in_another_unit" {
  command = plan
  variables {
    ingest = { memory = "512M" }
  }
  expect_failures = [var.ingest]
}

run "sync_memory_too_small" {
  command = plan
  variables {
    sync = { memory = "128Mi" }
  }
  expect_failures = [var.sync]
}

run "sync_timeout_beyond_pubsubs" {
  command = plan
  variables {
    sync = { timeout_seconds = 600 }
  }
  expect_failures = [var.sync]
}

run "sync_without_instances" {
  command = plan
  variables {
    sync = { max_instances = 0 }
  }
  expect_failures = [var.sync]
}

run "topic_too_short" {
  command = plan
  variables {
    topics = { alerts = "ab" }
  }
  expect_failures = [var.topics]
}

run "topic_too_long_for_its_subscription" {
  command = plan
  variables {
    topics = { status = join("", [for n in range(251) : "a"]) }
  }
  expect_failures = [var.topics]
}

run "topic_of_googles" {
  command = plan
  variables {
    topics = { rejects = "google-topic" }
  }
  expect_failures = [var.topics]
}

run "topic_as_a_path" {
  command = plan
  variables {
    topics = { alerts = "projects/p/topics/dtm-alerts" }
  }
  expect_failures = [var.topics]
}

run "dead_letters_of_alerts_as_a_path" {
  command = plan
  variables {
    topics = { alert_dead_letters = "projects/p/topics/dtm-alert-dead-letters" }
  }
  expect_failures = [var.topics]
}

run "one_topic_for_both_dead_letters" {
  command = plan
  variables {
    topics = { alert_dead_letters = "dtm-dead-letters" }
  }
  expect_failures = [var.topics]
}

run "one_topic_for_two" {
  command = plan
  variables {
    topics = { alerts = "dtm-rejects" }
  }
  expect_failures = [var.topics]
}

run "retention_too_long" {
  command = plan
  variables {
    topics = { retention_days = 32 }
  }
  expect_failures = [var.topics]
}

run "subscription_with_a_bad_name" {
  command = plan
  variables {
    alert_subscriptions = { "To SOAR" = {} }
  }
  expect_failures = [var.alert_subscriptions]
}

run "subscription_of_null" {
  command = plan
  variables {
    alert_subscriptions = { soar = null }
  }
  expect_failures = [var.alert_subscriptions]
}

run "subscription_with_a_name_that_is_taken" {
  command = plan
  variables {
    alert_subscriptions = { rejects = {} }
  }
  expect_failures = [var.alert_subscriptions]
}

run "subscription_and_topic_with_too_long_a_name" {
  command = plan
  variables {
    topics              = { alerts = join("", [for n in range(250) : "a"]) }
    alert_subscriptions = { urgent = {} }
  }
  expect_failures = [var.alert_subscriptions]
}

run "subscription_with_a_filter_of_257_bytes" {
  command = plan
  variables {
    alert_subscriptions = { soar = { filter = "attributes.a = \"${join("", [for n in range(240) : "x"])}\"" } }
  }
  expect_failures = [var.alert_subscriptions]
}

run "subscription_of_two_kinds" {
  command = plan
  variables {
    alert_subscriptions = { soar = { bigquery_table = "my-project.a.b", push_endpoint = "https://soar.example.com/" } }
  }
  expect_failures = [var.alert_subscriptions]
}

run "subscription_with_a_bad_table" {
  command = plan
  variables {
    alert_subscriptions = { table = { bigquery_table = "dataset.table" } }
  }
  expect_failures = [var.alert_subscriptions]
}

run "subscription_unencrypted" {
  command = plan
  variables {
    alert_subscriptions = { soar = { push_endpoint = "http://soar.example.com/" } }
  }
  expect_failures = [var.alert_subscriptions]
}

run "subscription_with_a_password" {
  command = plan
  variables {
    alert_subscriptions = { soar = { push_endpoint = "https://user:password@soar.example.com/" } }
  }
  expect_failures = [var.alert_subscriptions]
}

run "subscription_with_an_audience_for_nothing" {
  command = plan
  variables {
    alert_subscriptions = { soar = { push_audience = "https://soar.example.com/" } }
  }
  expect_failures = [var.alert_subscriptions]
}

run "database_with_a_bad_name" {
  command = plan
  variables {
    database = { name = "db" }
  }
  expect_failures = [var.database]
}

run "database_of_no_name" {
  command = plan
  variables {
    database = { existing = "", policies = true }
  }
  expect_failures = [var.database]
}

run "database_in_no_place" {
  command = plan
  variables {
    database = { location = "" }
  }
  expect_failures = [var.database]
}

run "database_own_and_existing" {
  command = plan
  variables {
    database = { name = "mine", existing = "theirs", policies = true }
  }
  expect_failures = [var.database]
}

run "existing_database_without_a_word_on_policies" {
  command = plan
  variables {
    database = { existing = "theirs" }
  }
  expect_failures = [var.database]
}

run "policies_of_its_own_database" {
  command = plan
  variables {
    database = { policies = false }
  }
  expect_failures = [var.database]
}

run "secret_with_a_version" {
  command = plan
  variables {
    secret = { existing = "projects/p/secrets/s/versions/1" }
  }
  expect_failures = [var.secret]
}

run "secret_that_is_a_key" {
  command = plan
  variables {
    secret = { existing = join("", [for n in range(8) : "0123abcd"]) }
  }
  expect_failures = [var.secret]
}

run "secret_version_in_words" {
  command = plan
  variables {
    secret = { version = "newest" }
  }
  expect_failures = [var.secret]
}

run "an_email_without_a_domain" {
  command = plan
  variables {
    monitoring = { emails = ["soc@example.com", "soc"] }
  }
  expect_failures = [var.monitoring]
}

run "an_email_twice" {
  command = plan
  variables {
    monitoring = { emails = ["soc@example.com", "SOC@example.com"] }
  }
  expect_failures = [var.monitoring]
}

run "emails_and_channels_too_many_together" {
  command = plan
  variables {
    monitoring = { emails = [for n in range(9) : "soc${n}@example.com"], notification_channels = [for n in range(8) : "projects/p/notificationChannels/${n}"] }
  }
  expect_failures = [var.monitoring]
}

run "a_runbook_url_that_is_a_path" {
  command = plan
  variables {
    monitoring = { runbook_url = "docs/runbooks" }
  }
  expect_failures = [var.monitoring]
}

run "a_runbook_url_with_a_slash_at_its_end" {
  command = plan
  variables {
    monitoring = { runbook_url = "https://git.example.com/dtm-relay/docs/runbooks/" }
  }
  expect_failures = [var.monitoring]
}

run "an_age_of_nothing" {
  command = plan
  variables {
    monitoring = { age_minutes = 0 }
  }
  expect_failures = [var.monitoring]
}

run "too_many_channels" {
  command = plan
  variables {
    monitoring = { notification_channels = [for n in range(17) : "projects/p/notificationChannels/${n}"] }
  }
  expect_failures = [var.monitoring]
}

# The bounds themselves are allowed.
run "bounds" {
  command = plan
  variables {
    region = "northamerica-northeast1"
    gti = {
      filter          = "{\"monitor_id\":[\"m\"],\"status\":[\"new\",\"tracked_external\"],\"alert_type\":[\"Something New\"],\"severity\":[\"low\"],\"mscore_gte\":100,\"search\":\"a:b\",\"has_analysis\":true}"
      max_concurrency = 10, max_qps = 0.1, max_requests_per_day = 1
    }
    sync     = { timeout_seconds = 570, max_instances = 1, concurrency = 1, memory = "4Gi" }
    windows  = { overlap = "0", settle = "0s", initial_lookback = "1s", max_lookback = "10m1s", audit = "10m", updates = "1.5h", ledger_ttl = "1h30m1s" }
    schedule = { interval_minutes = 10, time_zone = "America/Argentina/Buenos_Aires" }
    ingest   = { timeout_seconds = 60, budget = "50s", memory = "512Mi" }
    database = { name = "(default)", location = "nam5" }
  }
  expect_failures = [var.gti]
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

run "operator_with_a_prefix" {
  command = plan
  variables {
    operators = ["user:ana@example.com"]
  }
  expect_failures = [var.operators]
}

run "operator_with_a_capital" {
  command = plan
  variables {
    operators = ["Ana@example.com"]
  }
  expect_failures = [var.operators]
}

run "operator_twice" {
  command = plan
  variables {
    operators = ["ana@example.com", "ana@example.com"]
  }
  expect_failures = [var.operators]
}

run "viewer_that_is_no_e_mail" {
  command = plan
  variables {
    operators = ["ana@example.com"]
    viewers   = ["everybody"]
  }
  expect_failures = [var.viewers]
}

run "viewer_that_is_an_operator" {
  command = plan
  variables {
    operators = ["ana@example.com"]
    viewers   = ["ana@example.com"]
  }
  expect_failures = [var.viewers]
}

run "viewers_without_operators" {
  command = plan
  variables {
    viewers = ["ana@example.com"]
  }
  expect_failures = [var.viewers]
}

run "status_publisher_everybody" {
  command = plan
  variables {
    status_publishers = ["allUsers"]
  }
  expect_failures = [var.status_publishers]
}

run "status_publisher_without_a_kind" {
  command = plan
  variables {
    status_publishers = ["soar@example.com"]
  }
  expect_failures = [var.status_publishers]
}

run "alert_subscriber_everybody" {
  command = plan
  variables {
    alert_subscriptions = { siem = {} }
    alert_subscribers   = ["allAuthenticatedUsers"]
  }
  expect_failures = [var.alert_subscribers]
}

run "alert_subscribers_of_nothing" {
  command = plan
  variables {
    alert_subscriptions = { table = { bigquery_table = "a.b.c" } }
    alert_subscribers   = ["group:soc@example.com"]
  }
  expect_failures = [var.alert_subscribers]
}

run "ingress_of_another_word" {
  command = plan
  variables {
    ingest = { ingress = "internal" }
  }
  expect_failures = [var.ingest]
}

run "connector_with_a_url" {
  command = plan
  variables {
    network = { connector = "https://example.com/connector" }
  }
  expect_failures = [var.network]
}

run "egress_of_another_word" {
  command = plan
  variables {
    network = { connector = "relay", egress = "all" }
  }
  expect_failures = [var.network]
}

run "worker_pool_by_id" {
  command = plan
  variables {
    build = { worker_pool = "private" }
  }
  expect_failures = [var.build]
}

run "source_object_in_a_url" {
  command = plan
  variables {
    source_object = { bucket = "gs://source", object = "relay.zip" }
  }
  expect_failures = [var.source_object]
}

run "source_object_that_is_no_zip" {
  command = plan
  variables {
    source_object = { bucket = "source", object = "relay.tar" }
  }
  expect_failures = [var.source_object]
}

run "service_account_of_google" {
  command = plan
  variables {
    service_accounts = { build = "123456789012-compute@developer.gserviceaccount.com" }
  }
  expect_failures = [var.service_accounts]
}

run "one_service_account_for_two" {
  command = plan
  variables {
    service_accounts = { ingest = "relay@my-project.iam.gserviceaccount.com", sync = "relay@my-project.iam.gserviceaccount.com" }
  }
  expect_failures = [var.service_accounts]
}

run "kms_key_by_version" {
  command = plan
  variables {
    kms_key = { name = "projects/k/locations/us-central1/keyRings/r/cryptoKeys/dtm/cryptoKeyVersions/1" }
  }
  expect_failures = [var.kms_key]
}

run "kms_key_of_another_region" {
  command = plan
  variables {
    kms_key = { name = "projects/k/locations/europe/keyRings/r/cryptoKeys/dtm" }
  }
  expect_failures = [var.kms_key]
}

run "kms_key_and_a_database_elsewhere" {
  command = plan
  variables {
    kms_key  = { name = "projects/k/locations/us-central1/keyRings/r/cryptoKeys/dtm" }
    database = { location = "nam5" }
  }
  expect_failures = [var.kms_key]
}

run "kms_key_and_a_data_set_elsewhere" {
  command = plan
  variables {
    kms_key  = { name = "projects/k/locations/us-central1/keyRings/r/cryptoKeys/dtm" }
    bigquery = { location = "EU" }
  }
  expect_failures = [var.kms_key]
}

run "kms_key_and_an_archive_elsewhere" {
  command = plan
  variables {
    kms_key = { name = "projects/k/locations/us-central1/keyRings/r/cryptoKeys/dtm" }
    archive = { location = "EU" }
  }
  expect_failures = [var.kms_key]
}

run "kms_key_and_a_secret_elsewhere" {
  command = plan
  variables {
    kms_key = { name = "projects/k/locations/us-central1/keyRings/r/cryptoKeys/dtm" }
    secret  = { locations = ["us-central1", "us-east1"] }
  }
  expect_failures = [var.kms_key]
}

run "soft_delete_of_a_day" {
  command = plan
  variables {
    soft_delete_days = 1
  }
  expect_failures = [var.soft_delete_days]
}

run "no_region_for_messages" {
  command = plan
  variables {
    topics = { regions = [] }
  }
  expect_failures = [var.topics]
}

run "secret_in_no_location" {
  command = plan
  variables {
    secret = { locations = [] }
  }
  expect_failures = [var.secret]
}

run "secret_twice_in_a_location" {
  command = plan
  variables {
    secret = { locations = ["europe-west1", "europe-west1"] }
  }
  expect_failures = [var.secret]
}

run "locations_of_a_secret_that_exists" {
  command = plan
  variables {
    secret = { existing = "key", locations = ["europe-west1"] }
  }
  expect_failures = [var.secret]
}

run "backup_kept_for_too_long" {
  command = plan
  variables {
    database = { daily_backup_days = 99 }
  }
  expect_failures = [var.database]
}

run "backup_of_half_a_day" {
  command = plan
  variables {
    database = { weekly_backup_days = 0.5 }
  }
  expect_failures = [var.database]
}

run "backups_of_another_s_database" {
  command = plan
  variables {
    database = { existing = "shared", policies = false, daily_backup_days = 7 }
  }
  expect_failures = [var.database]
}

run "recovery_of_a_database_that_exists" {
  command = plan
  variables {
    database = { existing = "shared", policies = true, point_in_time_recovery = true }
  }
  expect_failures = [var.database]
}
