data "archive_file" "source" {
  count = var.source_object == null ? 1 : 0

  type       = "zip"
  source_dir = "${path.module}/.."
  excludes   = local.not_shipped

  # Below terraform/, which is not shipped, so the zip is never in itself. Its
  # name keeps instances apart that share the module's folder.
  output_path = "${path.module}/.terraform/${var.project_id}-${local.name}.zip"

  # Another umask is no change of code.
  output_file_mode = "0644"

  lifecycle {
    precondition {
      condition     = length(local.unknown) == 0
      error_message = "The folder of the source holds what does not belong to it: ${join(", ", local.unknown)}. Nothing of it would be uploaded. Move it elsewhere; if it is source, name it in .gcloudignore."
    }
    precondition {
      condition     = length(local.odd_names) == 0
      error_message = "The folder of the source holds files whose names have one of * ? { } [ ] \\: ${join(", ", local.odd_names)}. They can't be left out of the upload by name: move them elsewhere."
    }
  }
}

resource "google_storage_bucket" "source" {
  count = var.source_object == null ? 1 : 0

  project  = var.project_id
  name     = "${var.project_id}-${local.bucket_part}-source"
  location = var.region
  labels   = local.labels

  uniform_bucket_level_access = true
  public_access_prevention    = "enforced"
  force_destroy               = true

  dynamic "encryption" {
    for_each = local.kms_key_name[*]
    content {
      default_kms_key_name = encryption.value
    }
  }

  # It holds nothing that is not in the repository.
  soft_delete_policy {
    retention_duration_seconds = coalesce(var.soft_delete_days, 0) * 86400
  }

  depends_on = [time_sleep.kms]
}

# The checksum in its name makes a change of code, and nothing else, a new build.
resource "google_storage_bucket_object" "source" {
  count = var.source_object == null ? 1 : 0

  name   = "source-${data.archive_file.source[0].output_sha256}.zip"
  bucket = google_storage_bucket.source[0].name
  source = data.archive_file.source[0].output_path

  lifecycle {
    create_before_destroy = true # the functions let go of the old one first
  }
}

locals {
  source = var.source_object != null ? var.source_object : {
    bucket = google_storage_bucket.source[0].name
    object = google_storage_bucket_object.source[0].name
  }
}

resource "google_artifact_registry_repository" "images" {
  project       = var.project_id
  location      = var.region
  repository_id = local.name
  description   = "Images of the functions"
  format        = "DOCKER"
  labels        = local.labels
  kms_key_name  = local.kms_key_name

  # What serves is safe from this: Cloud Run keeps its own copy of an image in use.
  cleanup_policies {
    id     = "delete-old"
    action = "DELETE"
    condition {
      older_than = "604800s"
    }
  }
  cleanup_policies {
    id     = "keep-latest"
    action = "KEEP"
    most_recent_versions {
      keep_count = 3
    }
  }

  depends_on = [time_sleep.kms]
}
