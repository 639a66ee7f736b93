# What terraform plan refuses. The messages name the variable and what is allowed. These
# runs have the variables alone (tests/variables), where a plan takes a twentieth of the
# whole module's time.

variables {
  project_id = "my-project"
  monitoring = { emails = ["soc@example.com"] }
}

# Each of these runs refuses all that is in it. It fails when one of its values is not
# refused, or something else is. Terraform does not check a variable that refers to a
# refused one: these are in different runs.
run "refused_01" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter is no json
    gti = { filter = "severity=high" }
    # window without a unit
    windows = { overlap = "10" }
    # timeout beyond the schedulers
    ingest = { timeout_seconds = 1771 }
    # subscription with a bad name
    alert_subscriptions = { "To SOAR" = {} }
    # database with a bad name
    database = { name = "db" }
    # secret with a version
    secret = { existing = "projects/p/secrets/s/versions/1" }
    # operator with a prefix
    operators = ["user:ana@example.com"]
    # label with too long a value
    labels = { team = join("", [for n in range(64) : "x"]) }
    # runtime too old
    runtime = "go125"
    # status publisher everybody
    status_publishers = ["allUsers"]
    # connector with a url
    network = { connector = "https://example.com/connector" }
    # source object in a url
    source_object = { bucket = "gs://source", object = "relay.zip" }
    # service account of google
    service_accounts = { build = "123456789012-compute@developer.gserviceaccount.com" }
    # region of nothing
    region = ""
    # message format unknown
    message_format = "Incident"
    # log level unknown
    log_level = "verbose"
    # worker pool by id
    build = { worker_pool = "private" }
    # soft delete of a day
    soft_delete_days = 1
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.alert_subscriptions, var.database, var.secret, var.operators, var.labels, var.runtime, var.status_publishers, var.network, var.source_object, var.service_accounts, var.region, var.message_format, var.log_level, var.build, var.soft_delete_days]
}

run "refused_02" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter is a list
    gti = { filter = "[]" }
    # window in days
    windows = { updates = "30d" }
    # timeout too short
    ingest = { timeout_seconds = 59 }
    # subscription of null
    alert_subscriptions = { soar = null }
    # database of no name
    database = { existing = "", policies = true }
    # secret that is a key
    secret = { existing = join("", [for n in range(8) : "0123abcd"]) }
    # operator with a capital
    operators = ["Ana@example.com"]
    # labels beyond what google takes
    labels = { for n in range(58) : "label${n}" => "x" }
    # runtime of another language
    runtime = "python313"
    # status publisher without a kind
    status_publishers = ["soar@example.com"]
    # egress of another word
    network = { connector = "relay", egress = "all" }
    # source object that is no zip
    source_object = { bucket = "source", object = "relay.tar" }
    # one service account for two
    service_accounts = { ingest = "relay@my-project.iam.gserviceaccount.com", sync = "relay@my-project.iam.gserviceaccount.com" }
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.alert_subscriptions, var.database, var.secret, var.operators, var.labels, var.runtime, var.status_publishers, var.network, var.source_object, var.service_accounts]
}

run "refused_03" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with an unknown name
    gti = { filter = "{\"sevrity\":[\"high\"]}" }
    # window finer than a millisecond
    windows = { overlap = "1.5ms" }
    # budget longer than the timeout
    ingest = { budget = "9m" }
    # subscription with a name that is taken
    alert_subscriptions = { rejects = {} }
    # database in no place
    database = { location = "" }
    # secret version in words
    secret = { version = "newest" }
    # operator twice
    operators = ["ana@example.com", "ana@example.com"]
    # service account of another project
    service_accounts = { build = "relay-build@another-project.iam.gserviceaccount.com" }
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.alert_subscriptions, var.database, var.secret, var.operators, var.service_accounts]
}

run "refused_04" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with an unknown severity
    gti = { filter = "{\"severity\":[\"critical\"]}" }
    # window longer than a go duration
    windows = { max_lookback = "3000000h" }
    # budget without time to store
    ingest = { budget = "531s" }
    # subscription with a filter of 257 bytes
    alert_subscriptions = { soar = { filter = "attributes.a = \"${join("", [for n in range(240) : "x"])}\"" } }
    # database own and existing
    database = { name = "mine", existing = "theirs", policies = true }
    # secret in no location
    secret = { locations = [] }
    # viewers without operators
    viewers = ["ana@example.com"]
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.alert_subscriptions, var.database, var.secret, var.viewers]
}

run "refused_05" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with an unknown status
    gti = { filter = "{\"status\":[\"open\"]}" }
    # window negative
    windows = { settle = "-1s" }
    # budget without a unit
    ingest = { budget = "300" }
    # subscription of two kinds
    alert_subscriptions = { soar = { bigquery_table = "my-project.a.b", push_endpoint = "https://soar.example.com/" } }
    # existing database without a word on policies
    database = { existing = "theirs" }
    # secret twice in a location
    secret = { locations = ["europe-west1", "europe-west1"] }
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.alert_subscriptions, var.database, var.secret]
}

run "refused_06" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a string for a list
    gti = { filter = "{\"monitor_id\":\"m1\"}" }
    # initial lookback within settle
    windows = { initial_lookback = "30s" }
    # budget finer than a millisecond
    ingest = { budget = "10s1.5ms" }
    # subscription with a bad table
    alert_subscriptions = { table = { bigquery_table = "dataset.table" } }
    # policies of its own database
    database = { policies = false }
    # locations of a secret that exists
    secret = { existing = "key", locations = ["europe-west1"] }
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.alert_subscriptions, var.database, var.secret]
}

run "refused_07" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a score below zero
    gti = { filter = "{\"mscore_gte\":-1}" }
    # max lookback too short
    windows = { max_lookback = "10m", audit = "0", overlap = "0" }
    # budget longer than a go duration
    ingest = { budget = "3000000h" }
    # subscription unencrypted
    alert_subscriptions = { soar = { push_endpoint = "http://soar.example.com/" } }
    # backup kept for too long
    database = { daily_backup_days = 99 }
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.alert_subscriptions, var.database]
}

run "refused_08" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a score in quotes
    gti = { filter = "{\"mscore_gte\":\"50\"}" }
    # max lookback within overlap
    windows = { max_lookback = "100h", overlap = "100h" }
    # budget of nothing
    ingest = { budget = "0s" }
    # subscription with a password
    alert_subscriptions = { soar = { push_endpoint = "https://user:password@soar.example.com/" } }
    # backup of half a day
    database = { weekly_backup_days = 0.5 }
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.alert_subscriptions, var.database]
}

run "refused_09" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a score too high
    gti = { filter = "{\"mscore_gte\":101}" }
    # audit beyond max lookback
    windows = { audit = "120h" }
    # memory below what go needs
    ingest = { memory = "256Mi" }
    # subscription with an audience for nothing
    alert_subscriptions = { soar = { push_audience = "https://soar.example.com/" } }
    # backups of another s database
    database = { existing = "shared", policies = false, daily_backup_days = 7 }
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.alert_subscriptions, var.database]
}

run "refused_10" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a score in words
    gti = { filter = "{\"mscore_gte\":\"high\"}" }
    # ledger forgets what is watched
    windows = { ledger_ttl = "720h" }
    # memory beyond one processor
    ingest = { memory = "8Gi" }
    # recovery of a database that exists
    database = { existing = "shared", policies = true, point_in_time_recovery = true }
    # topic too short
    topics = { alerts = "ab" }
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.database, var.topics]
}

run "refused_11" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with an analysis in words
    gti = { filter = "{\"has_analysis\":\"yes\"}" }
    # ledger forgets what is read again
    windows = { ledger_ttl = "20h", updates = "0", overlap = "20h" }
    # memory in another unit
    ingest = { memory = "512M" }
    # topic too long for its subscription
    topics = { status = join("", [for n in range(251) : "a"]) }
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.topics]
}

run "refused_12" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with an analysis of null
    gti = { filter = "{\"has_analysis\":null}" }
    # monitors checked too often
    windows = { monitors_check = "59.999s" }
    # ingress of another word
    ingest = { ingress = "internal" }
    # topic of googles
    topics = { rejects = "google-topic" }
  }
  expect_failures = [var.gti, var.windows, var.ingest, var.topics]
}

run "refused_13" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a boolean in quotes
    gti = { filter = "{\"has_analysis\":\"true\"}" }
    # topic as a path
    topics = { alerts = "projects/p/topics/dtm-alerts" }
    # interval that cron can not say
    schedule = { interval_minutes = 7 }
  }
  expect_failures = [var.gti, var.topics, var.schedule]
}

run "refused_14" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a search for a number
    gti = { filter = "{\"search\":5}" }
    # dead letters of alerts as a path
    topics = { alert_dead_letters = "projects/p/topics/dtm-alert-dead-letters" }
    # interval of seven hours
    schedule = { interval_minutes = 420 }
  }
  expect_failures = [var.gti, var.topics, var.schedule]
}

run "refused_15" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a search of a list
    gti = { filter = "{\"search\":[\"a\"]}" }
    # one topic for both dead letters
    topics = { alert_dead_letters = "dtm-dead-letters" }
    # interval of nothing
    schedule = { interval_minutes = 0 }
  }
  expect_failures = [var.gti, var.topics, var.schedule]
}

run "refused_16" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a search of null
    gti = { filter = "{\"search\":null}" }
    # one topic for two
    topics = { alerts = "dtm-rejects" }
    # interval of half a minute
    schedule = { cron = "* * * * *", interval_minutes = 0.5 }
  }
  expect_failures = [var.gti, var.topics, var.schedule]
}

run "refused_17" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with numbers for tags
    gti = { filter = "{\"tags\":[1,2]}" }
    # retention too long
    topics = { retention_days = 32 }
    # cron of nothing
    schedule = { cron = " ", interval_minutes = 1440 }
  }
  expect_failures = [var.gti, var.topics, var.schedule]
}

run "refused_18" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with booleans for tags
    gti = { filter = "{\"tags\":[true]}" }
    # no region for messages
    topics = { regions = [] }
    # cron without an interval
    schedule = { cron = "0 6 * * *" }
  }
  expect_failures = [var.gti, var.topics, var.schedule]
}

run "refused_19" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with an object for a list
    gti = { filter = "{\"tags\":{\"a\":\"b\"}}" }
    # cron with an interval of months
    schedule = { cron = "0 0 1 */2 *", interval_minutes = 44641 }
    # kms key by version
    kms_key = { name = "projects/k/locations/us-central1/keyRings/r/cryptoKeys/dtm/cryptoKeyVersions/1" }
  }
  expect_failures = [var.gti, var.schedule, var.kms_key]
}

run "refused_20" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with null for a list
    gti = { filter = "{\"tags\":null}" }
    # time zone of nothing
    schedule = { time_zone = "" }
    # kms key of another region
    kms_key = { name = "projects/k/locations/europe/keyRings/r/cryptoKeys/dtm" }
  }
  expect_failures = [var.gti, var.schedule, var.kms_key]
}

run "refused_21" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with an empty tag
    gti = { filter = "{\"tags\":[\"a\",\" \"]}" }
    # name with capitals
    name = "DTM"
  }
  expect_failures = [var.gti, var.name]
}

run "refused_22" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a score with a fraction
    gti = { filter = "{\"mscore_gte\":50.5}" }
    # name too short for a database
    name = "dtm"
  }
  expect_failures = [var.gti, var.name]
}

run "refused_23" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter with a score of null
    gti = { filter = "{\"mscore_gte\":null}" }
    # feed with capitals
    feed = "EMEA"
  }
  expect_failures = [var.gti, var.feed]
}

run "refused_24" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # filter too long
    gti = { filter = jsonencode({ search = join("", [for n in range(1024) : "thirty-two letters in each of it"]) }) }
    # feed too long
    feed = "a-feed-with-a-name-of-thirty-three"
  }
  expect_failures = [var.rules, var.feed]
}

run "refused_25" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # no concurrency
    gti = { max_concurrency = 0 }
    # subscriber without a kind
    alert_subscriptions = { soar = { subscribers = ["soc@example.com"] } }
    # project id is a number
    project_id = "123456789012"
  }
  expect_failures = [var.gti, var.alert_subscriptions, var.project_id]
}

run "refused_26" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # concurrency of both functions too high
    gti = { max_concurrency = 8 }
    # subscriber of what is pushed
    alert_subscriptions = { soar = { push_endpoint = "https://soar.example.com/", subscribers = ["group:soc@example.com"] } }
    # project id with capitals
    project_id = "My-Project"
  }
  expect_failures = [var.gti, var.alert_subscriptions, var.project_id]
}

run "refused_27" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # no rate
    gti = { max_qps = 0 }
    # subscription with a filter of 137 characters and 257 bytes
    alert_subscriptions = { soar = { filter = "attributes.a = \"${join("", [for n in range(120) : "é"])}\"" } }
  }
  expect_failures = [var.gti, var.alert_subscriptions]
}

run "refused_28" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # rate of nearly nothing
    gti = { max_qps = 0.0001 }
  }
  expect_failures = [var.gti]
}

run "refused_29" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # rate too high
    gti = { max_qps = 1001 }
  }
  expect_failures = [var.gti]
}

run "refused_30" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # no requests
    gti = { max_requests_per_day = 0 }
  }
  expect_failures = [var.gti]
}

run "refused_31" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # requests beyond an integer
    gti = { max_requests_per_day = 1e20 }
  }
  expect_failures = [var.gti]
}

run "refused_32" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # too few errors
    gti = { max_errors_per_hour = 9 }
  }
  expect_failures = [var.gti]
}

run "refused_33" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # too many errors
    gti = { max_errors_per_hour = 10001 }
  }
  expect_failures = [var.gti]
}

run "refused_34" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # half an error
    gti = { max_errors_per_hour = 10.5 }
  }
  expect_failures = [var.gti]
}

run "refused_35" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # alerts beyond an integer
    gti = { max_alerts_per_run = 1e20 }
  }
  expect_failures = [var.gti]
}

run "refused_36" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # half an alert
    gti = { max_alerts_per_run = 0.5 }
  }
  expect_failures = [var.gti]
}

run "refused_37" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # base url unencrypted
    gti = { base_url = "http://gti.example.com" }
  }
  expect_failures = [var.gti]
}

run "refused_38" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # base url with a user
    gti = { base_url = "https://user:password@gti.example.com/" }
  }
  expect_failures = [var.gti]
}

run "refused_39" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # base url with a query
    gti = { base_url = "https://gti.example.com/?key=1" }
  }
  expect_failures = [var.gti]
}

run "refused_40" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # tool name with a line break
    gti = { tool_name = "a\nb" }
  }
  expect_failures = [var.gti]
}

run "refused_41" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # an email without a domain
    monitoring = { emails = ["soc@example.com", "soc"] }
  }
  expect_failures = [var.monitoring]
}

run "refused_42" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # an email twice
    monitoring = { emails = ["soc@example.com", "SOC@example.com"] }
  }
  expect_failures = [var.monitoring]
}

run "refused_43" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # emails and channels too many together
    monitoring = { emails = [for n in range(9) : "soc${n}@example.com"], notification_channels = [for n in range(8) : "projects/p/notificationChannels/${n}"] }
  }
  expect_failures = [var.monitoring]
}

run "refused_44" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # a runbook url that is a path
    monitoring = { runbook_url = "docs/runbooks" }
  }
  expect_failures = [var.monitoring]
}

run "refused_45" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # a runbook url with a slash at its end
    monitoring = { runbook_url = "https://git.example.com/dtm-relay/docs/runbooks/" }
  }
  expect_failures = [var.monitoring]
}

run "refused_46" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # an age of nothing
    monitoring = { age_minutes = 0 }
  }
  expect_failures = [var.monitoring]
}

run "refused_47" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # too many channels
    monitoring = { notification_channels = [for n in range(17) : "projects/p/notificationChannels/${n}"] }
  }
  expect_failures = [var.monitoring]
}

run "refused_48" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # sync memory too small
    sync = { memory = "128Mi" }
  }
  expect_failures = [var.sync]
}

run "refused_49" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # sync timeout beyond pubsubs
    sync = { timeout_seconds = 600 }
  }
  expect_failures = [var.sync]
}

run "refused_50" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    # sync without instances
    sync = { max_instances = 0 }
  }
  expect_failures = [var.sync]
}

run "concurrency_of_sync_too_high" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    sync = { max_instances = 3 }
  }
  expect_failures = [var.gti]
}

run "max_lookback_shorter_than_the_interval" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    windows  = { max_lookback = "5h", audit = "0" }
    schedule = { interval_minutes = 360 }
  }
  expect_failures = [var.windows]
}

run "subscription_and_topic_with_too_long_a_name" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    topics              = { alerts = join("", [for n in range(250) : "a"]) }
    alert_subscriptions = { urgent = {} }
  }
  expect_failures = [var.alert_subscriptions]
}

run "no_error_left" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    gti        = { max_errors_per_hour = 10 }
    monitoring = { errors_left = 5 }
  }
  expect_failures = [var.monitoring]
}

run "kms_key_and_a_database_elsewhere" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    kms_key  = { name = "projects/k/locations/us-central1/keyRings/r/cryptoKeys/dtm" }
    database = { location = "nam5" }
  }
  expect_failures = [var.kms_key]
}

run "kms_key_and_a_data_set_elsewhere" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    kms_key  = { name = "projects/k/locations/us-central1/keyRings/r/cryptoKeys/dtm" }
    bigquery = { location = "EU" }
  }
  expect_failures = [var.kms_key]
}

run "kms_key_and_an_archive_elsewhere" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    kms_key = { name = "projects/k/locations/us-central1/keyRings/r/cryptoKeys/dtm" }
    archive = { location = "EU" }
  }
  expect_failures = [var.kms_key]
}

run "kms_key_and_a_secret_elsewhere" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    kms_key = { name = "projects/k/locations/us-central1/keyRings/r/cryptoKeys/dtm" }
    secret  = { locations = ["us-central1", "us-east1"] }
  }
  expect_failures = [var.kms_key]
}

run "viewer_that_is_no_e_mail" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    operators = ["ana@example.com"]
    viewers   = ["everybody"]
  }
  expect_failures = [var.viewers]
}

run "viewer_that_is_an_operator" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    operators = ["ana@example.com"]
    viewers   = ["ana@example.com"]
  }
  expect_failures = [var.viewers]
}

run "alert_subscriber_everybody" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    alert_subscriptions = { siem = {} }
    alert_subscribers   = ["allAuthenticatedUsers"]
  }
  expect_failures = [var.alert_subscribers]
}

run "alert_subscribers_of_nothing" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    alert_subscriptions = { table = { bigquery_table = "a.b.c" } }
    alert_subscribers   = ["group:soc@example.com"]
  }
  expect_failures = [var.alert_subscribers]
}

run "bigquery_with_a_bad_data_set" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    bigquery = { dataset = "dtm-relay" }
  }
  expect_failures = [var.bigquery]
}

run "bigquery_in_no_place" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    bigquery = { location = " " }
  }
  expect_failures = [var.bigquery]
}

run "bigquery_for_half_a_day" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    bigquery = { expiration_days = 0.5 }
  }
  expect_failures = [var.bigquery]
}

run "bigquery_with_a_name_that_is_taken" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    bigquery            = {}
    alert_subscriptions = { bigquery = {} }
  }
  expect_failures = [var.bigquery]
}

run "archive_in_no_place" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    archive = { location = "" }
  }
  expect_failures = [var.archive]
}

run "archive_for_no_time" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    archive = { retention_days = 0 }
  }
  expect_failures = [var.archive]
}

run "archive_with_a_lock_on_nothing" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    archive = { lock = true }
  }
  expect_failures = [var.archive]
}

run "archive_with_a_name_that_is_taken" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    archive             = {}
    alert_subscriptions = { archive = {} }
  }
  expect_failures = [var.archive]
}

run "notify_of_null" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify = { a = null }
  }
  expect_failures = [var.notify]
}

run "notify_with_a_bad_name" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify = { "On Call" = { to = "slack", url = "https://hooks.example.com/a" } }
  }
  expect_failures = [var.notify]
}

run "notify_with_a_name_that_is_taken" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify              = { a = { to = "slack", url = "https://hooks.example.com/a" } }
    alert_subscriptions = { notify-a = {} }
  }
  expect_failures = [var.notify]
}

run "notify_and_topic_with_too_long_a_name" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    topics = { alerts = join("", [for n in range(248) : "a"]) }
    notify = { a = { to = "slack", url = "https://hooks.example.com/a" } }
  }
  expect_failures = [var.notify]
}

run "notify_nobody_known" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify = { a = { to = "teams", url = "https://hooks.example.com/a" } }
  }
  expect_failures = [var.notify]
}

run "notify_unencrypted" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify = { a = { to = "webhook", url = "http://hooks.example.com/a" } }
  }
  expect_failures = [var.notify]
}

run "notify_nowhere" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify = { a = { to = "slack" } }
  }
  expect_failures = [var.notify]
}

run "notify_with_a_password" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify = { a = { to = "webhook", url = "https://user:password@hooks.example.com/a" } }
  }
  expect_failures = [var.notify]
}

run "pagerduty_without_a_key" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify = { a = { to = "pagerduty" } }
  }
  expect_failures = [var.notify]
}

run "pagerduty_with_an_address_for_a_key" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify = { a = { to = "pagerduty", routing_key = "https://events.pagerduty.com" } }
  }
  expect_failures = [var.notify]
}

run "a_key_for_slack" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify = { a = { to = "slack", url = "https://hooks.example.com/a", routing_key = "0123456789abcdef0123456789abcdef" } }
  }
  expect_failures = [var.notify]
}

run "notify_with_a_filter_of_257_bytes" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    notify = { a = { to = "slack", url = "https://hooks.example.com/a", filter = "a${join("", [for n in range(128) : "é"])}" } }
  }
  expect_failures = [var.notify]
}

run "rule_with_an_unknown_field" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    rules = [{ name = "a", when = "true", then = { esclate = true } }]
  }
  expect_failures = [var.rules]
}

run "rule_without_a_condition" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    rules = [{ name = "a", then = { drop = true } }]
  }
  expect_failures = [var.rules]
}

run "two_rules_of_one_name" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    rules = [{ name = "a", when = "true", then = { drop = true } }, { name = "a", when = "false", then = { drop = true } }]
  }
  expect_failures = [var.rules]
}

run "rule_with_a_bad_priority" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    rules = [{ name = "a", when = "true", then = { priority = "P5" } }]
  }
  expect_failures = [var.rules]
}

run "rule_with_a_word_for_a_boolean" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    rules = [{ name = "a", when = "true", then = { drop = "yes" } }]
  }
  expect_failures = [var.rules]
}

run "rule_with_a_bad_status" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    rules = [{ name = "a", when = "true", then = { set_status = "resolved" } }]
  }
  expect_failures = [var.rules]
}

run "rules_that_are_no_list" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    rules = { name = "a", when = "true", then = { drop = true } }
  }
  expect_failures = [var.rules]
}

run "redact_a_null_path" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    redact = [null]
  }
  expect_failures = [var.redact]
}

run "redact_an_empty_path" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    redact = [""]
  }
  expect_failures = [var.redact]
}

# 128 times 120 letters of two bytes, so 30,720 of them and half as many characters.
run "rules_of_many_bytes" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    rules = [for n in range(128) : { name = "r${n}", when = "alert.title == '${join("", [for n in range(120) : "é"])}'", then = { drop = true } }]
  }
  expect_failures = [var.rules]
}

run "paths_of_many_bytes" {
  command = plan
  module { source = "./tests/variables" }
  variables {
    redact = [join("", [for n in range(1024) : "é"])]
  }
  expect_failures = [var.redact]
}

# All but the workers together are at a bound, which is allowed.
run "bounds" {
  command = plan
  module { source = "./tests/variables" }
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
