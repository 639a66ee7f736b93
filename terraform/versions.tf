terraform {
  required_version = ">= 1.9" # validations of a variable may look at other ones

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = ">= 6.50, < 9"
    }
    archive = {
      source  = "hashicorp/archive"
      version = ">= 2.5, < 3" # excludes with **/
    }
    time = {
      source  = "hashicorp/time"
      version = ">= 0.9, < 1"
    }
  }
}
