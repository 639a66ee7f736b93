# That the first apply in a new project works, and a later one in an old project
# replaces nothing that holds the position. The runs share a state, in this order.

mock_provider "google" {}
mock_provider "archive" {}
mock_provider "time" {}

variables {
  project_id = "my-project"
  monitoring = { notification_channels = ["projects/my-project/notificationChannels/1"] }
}

run "services" {
  command = plan

  assert {
    condition = toset([for s in concat(values(google_project_service.this), [google_project_service.resource_manager]) : s.service]) == toset([for name in [
      "artifactregistry", "cloudbuild", "cloudfunctions", "cloudresourcemanager", "cloudscheduler", "firestore", "iam", "iamcredentials",
      "logging", "monitoring", "pubsub", "run", "secretmanager", "serviceusage", "storage",
    ] : "${name}.googleapis.com"])
    error_message = "The services that all of it needs."
  }
  assert {
    condition     = alltrue([for s in concat(values(google_project_service.this), [google_project_service.resource_manager]) : !s.disable_on_destroy])
    error_message = "Destroy leaves them on."
  }
}

run "service_of_a_bigquery_of_its_own" {
  command = plan
  variables {
    bigquery = {}
  }
  assert {
    condition     = contains(keys(google_project_service.this), "bigquery.googleapis.com") && strcontains(time_sleep.services.triggers.services, "bigquery.googleapis.com")
    error_message = "BigQuery is enabled where it is used, and waited for."
  }
}

run "service_of_somebody_elses_table" {
  command = plan
  variables {
    alert_subscriptions = { table = { bigquery_table = "data-project.dtm.alerts" } }
  }
  assert {
    condition     = contains(keys(google_project_service.this), "bigquery.googleapis.com")
    error_message = "BigQuery is enabled where a subscription writes into a table."
  }
}

run "what_waits" {
  command = plan

  assert {
    condition     = [time_sleep.services.create_duration, time_sleep.resource_manager.create_duration, time_sleep.build.create_duration, time_sleep.delivery.create_duration] == ["60s", "60s", "120s", "120s"]
    error_message = "After the services, and after the grants of the build and of Pub/Sub."
  }
  # A plan doesn't show the order: the text has it.
  assert {
    condition     = length([for f in fileset(path.module, "*.tf") : f if strcontains(file("${path.module}/${f}"), "google_project_service.this]") && f != "services.tf"]) == 0
    error_message = "Who needs a service waits for time_sleep.services, not for the enabling alone."
  }
  assert {
    condition = alltrue([for grant in regexall("(?s)\nresource \"google_project_iam_member\" .*?\n}\n", file("${path.module}/identities.tf")) :
      strcontains(grant, "time_sleep.resource_manager") || strcontains(grant, "data.google_project.this")
    ])
    error_message = "Who changes the project's policy waits for its service, or reads the project's number, which waits for it."
  }
  assert {
    condition     = length(regexall("time_sleep\\.build,", file("${path.module}/functions.tf"))) == 2
    error_message = "Both functions wait until the build's grants are known."
  }
  assert {
    condition     = alltrue([for f in ["archive.tf", "bigquery.tf", "notify.tf"] : strcontains(file("${path.module}/${f}"), "time_sleep.delivery")]) && length(regexall("time_sleep\\.delivery", file("${path.module}/subscriptions.tf"))) == 2
    error_message = "What Pub/Sub delivers by itself waits until it may."
  }
}

run "first" {
  command = apply
}

run "another_region" {
  command = apply
  variables {
    region = "europe-west1"
  }
  assert {
    condition     = google_firestore_database.this[0].location_id == "us-central1" && google_cloudfunctions2_function.ingest.location == "europe-west1"
    error_message = "The functions move, the database stays where it is."
  }
}

run "another_location_of_the_database" {
  command = plan
  variables {
    database = { location = "eur3" }
  }
  expect_failures = [google_firestore_database.this]
}

run "a_key_for_a_database_that_has_none" {
  command = plan
  variables {
    kms_key = { name = "projects/keys/locations/us-central1/keyRings/soc/cryptoKeys/dtm" }
  }
  expect_failures = [google_firestore_database.this, google_secret_manager_secret.gti_api_key]
}

run "other_locations_of_the_secret" {
  command = plan
  variables {
    secret = { locations = ["europe-west1"] }
  }
  expect_failures = [google_secret_manager_secret.gti_api_key]
}
