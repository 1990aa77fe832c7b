package images

import (
	"errors"
	"io"

	"berth/images/blob"
)

// maxDamaged is how often a blob is fetched that comes damaged.
const maxDamaged = 4

// damagedError is a blob's failure that another fetch may mend.
type damagedError struct{ error }

func (e damagedError) Unwrap() error { return e.error }

// blame tells the source of a blob whose content turned out wrong, if that is what err
// says, so that it comes from elsewhere the next time.
func blame(body io.ReadCloser, err error) error {
	source, ok := body.(interface{ Reject() })
	if !ok || !errors.Is(err, blob.ErrWrong) {
		return err
	}
	source.Reject()
	return damagedError{err}
}

// again repeats fetch while what comes is damaged.
func again(fetch func() error) error {
	for try := 1; ; try++ {
		err := fetch()
		var damaged damagedError
		if try == maxDamaged || !errors.As(err, &damaged) {
			return err
		}
	}
}
