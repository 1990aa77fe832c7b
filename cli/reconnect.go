package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	mobyclient "github.com/moby/moby/client"

	"berth/fail"
)

// Containers and their streams do not need the engine, so what a command still has to ask is
// asked again when the engine ends in between: a killed or replaced one is back in no time.
const (
	engineAbsence = 10 * time.Second       // how long nobody may answer
	askAgainEvery = 100 * time.Millisecond // a tcp host gives no sign of its return
)

// engineGone reports whether err says that no engine answered, or that it ended while it did.
func engineGone(err error) bool {
	var network net.Error
	return err != nil && (mobyclient.IsErrConnectionFailed(err) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) || fail.Is(err, fail.Unavailable))
}

// persist asks, and asks again for as long as the engine is gone, up to engineAbsence. While
// busy is open (nil: it never is), somebody is still served without the engine and there is no
// limit. The last answer is the result.
func persist(ctx context.Context, busy <-chan struct{}, ask func(context.Context) error) error {
	patience := time.Now().Add(engineAbsence)
	for {
		began := time.Now()
		err := ask(ctx)
		if !engineGone(err) || ctx.Err() != nil {
			return err
		}
		if now := time.Now(); now.Sub(began) > time.Second || isOpen(busy) {
			patience = now.Add(engineAbsence) // it was there until just now
		} else if now.After(patience) {
			return err
		}
		if pause(ctx, askAgainEvery) != nil {
			return err
		}
	}
}

// present asks whether there is an engine at all, for commands whose first request would
// otherwise wait for its return.
func present(ctx context.Context, engine *mobyclient.Client) error {
	_, err := engine.Ping(ctx, mobyclient.PingOptions{NegotiateAPIVersion: true})
	return err
}

func isOpen(c <-chan struct{}) bool {
	if c == nil {
		return false
	}
	select {
	case <-c:
		return false
	default:
		return true
	}
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
