package tunnel

import (
	"github.com/warrennet/warren/tunnel/internal/counters"
	"github.com/warrennet/warren/tunnel/internal/tundev"
)

// The types of the packet path that users of the tunnel need.
type (
	// Hook receives each packet or super-packet once, and returns its verdict.
	Hook = tundev.Hook
	// Stats is a reading of the tunnel's counters.
	Stats = counters.Stats
)

// ErrFull means that packets were injected faster than the tunnel takes them.
var ErrFull = tundev.ErrFull
