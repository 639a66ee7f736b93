package state

import "errors"

// Tries is how often a document is read, changed and written again when another writer
// was faster.
const Tries = 5

// ErrContended means that another writer was faster each time.
var ErrContended = errors.New("others write to the record all the time")

// Update lets attempt read, change and write an alert's record until it is done, or
// fails. It is ErrContended when another writer was faster in all of Tries attempts.
func Update(attempt func() (done bool, err error)) error {
	for range Tries {
		if done, err := attempt(); done || err != nil {
			return err
		}
	}
	return ErrContended
}
