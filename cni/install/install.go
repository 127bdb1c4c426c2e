// Package install puts the CNI plugin where container runtimes execute it. It owns that one file and nothing else; it
// never changes the runtime's configuration.
package install

import (
	"bytes"
	"fmt"
	"os"

	"github.com/warrennet/warren/internal/atomicfile"
)

// mode is that of the installed plugin.
const mode = 0o755

// Plugin copies the plugin from a file to another one and reports whether the content changed. It replaces the file
// atomically: a runtime may execute it at any time, and a running program cannot be written to.
func Plugin(from, to string) (changed bool, err error) {
	if err := atomicfile.RemoveTemporary(to); err != nil {
		return false, fmt.Errorf("install the CNI plugin: %w", err)
	}
	want, err := os.ReadFile(from)
	if err != nil {
		return false, fmt.Errorf("read the CNI plugin: %w", err)
	}
	if have, err := os.ReadFile(to); err == nil && bytes.Equal(have, want) {
		return false, os.Chmod(to, mode)
	}
	if err := atomicfile.Write(to, want, mode); err != nil {
		return false, fmt.Errorf("install the CNI plugin: %w", err)
	}
	return true, nil
}
