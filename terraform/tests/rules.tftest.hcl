# Rules and redaction: what the plan refuses, and what the functions get.

mock_provider "google" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id = "my-project"
  monitoring = { emails = ["soc@example.com"] }
}

run "defaults" {
  command = plan

  assert {
    condition     = google_cloudfunctions2_function.ingest.service_config[0].environment_variables.RULES == "[]" && google_cloudfunctions2_function.ingest.service_config[0].environment_variables.REDACT == "[\"credentials\"]"
    error_message = "no rules, and credentials are masked"
  }
  assert {
    condition     = !contains(keys(google_pubsub_topic_iam_member.publisher), "ingest status")
    error_message = "without a rule that writes back, Ingest may not publish write-backs"
  }
}

run "rules" {
  command = plan

  variables {
    rules = [
      { name = "noise", when = "alert.severity == 'low'", then = { drop = true, set_status = "closed" } },
      { name = "urgent", when = "alert.severity == 'high'", then = { priority = "P1", escalate = true, tags = null } },
    ]
    redact = ["credentials", "topics[].value"]
  }

  assert {
    condition = jsondecode(google_cloudfunctions2_function.ingest.service_config[0].environment_variables.RULES) == [
      { name = "noise", when = "alert.severity == 'low'", then = { drop = true, set_status = "closed" } },
      { name = "urgent", when = "alert.severity == 'high'", then = { priority = "P1", escalate = true } },
    ]
    error_message = "the rules as they are written, without what is null"
  }
  assert {
    condition     = jsondecode(google_cloudfunctions2_function.ingest.service_config[0].environment_variables.REDACT) == ["credentials", "topics[].value"]
    error_message = "what is masked"
  }
  assert {
    condition     = !contains(keys(google_cloudfunctions2_function.sync.service_config[0].environment_variables), "RULES")
    error_message = "SyncStatus starts without the rules"
  }
  assert {
    condition     = google_pubsub_topic_iam_member.publisher["ingest status"].topic == "dtm-status-updates"
    error_message = "a rule that writes back needs the topic"
  }
}

run "nothing_to_mask" {
  command = plan
  variables {
    redact = []
  }
  assert {
    condition     = google_cloudfunctions2_function.ingest.service_config[0].environment_variables.REDACT == "[]"
    error_message = "everything as it came"
  }
}

# Each input is within its bounds, and all of them together are too much.
run "environment_too_large" {
  command         = plan
  expect_failures = [google_cloudfunctions2_function.ingest]
  variables {
    rules     = [{ name = "a", when = "alert.title == '${join("", [for n in range(900) : "thirty letters in each of them"])}'", then = { drop = true } }]
    operators = [for n in range(140) : "analyst-${n}@security.example.com"]
  }
}

run "environment_large" {
  command = plan
  variables {
    rules     = [{ name = "a", when = "alert.title == '${join("", [for n in range(900) : "thirty letters in each of them"])}'", then = { drop = true } }]
    operators = [for n in range(80) : "analyst-${n}@security.example.com"]
  }
  assert {
    condition     = local.environment_bytes > 30000 && local.environment_bytes <= 32000
    error_message = "${local.environment_bytes} bytes are counted."
  }
}

# What is counted before the accounts are made is no less than what there is.
run "environment_counted" {
  command = apply
  variables {
    rules     = [{ name = "a", when = "alert.title == 'é'", then = { drop = true } }]
    operators = ["ana@example.com"]
  }
  assert {
    condition     = local.environment_bytes >= length(join("", concat(keys(local.ingest_environment), values(local.ingest_environment)))) + 1 && local.environment_bytes <= length(join("", concat(keys(local.ingest_environment), values(local.ingest_environment)))) + 90
    error_message = "${local.environment_bytes} bytes are counted."
  }
}
