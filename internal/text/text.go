// Package text formats values for people. It owns nothing.
package text

import (
	"fmt"
	"strings"
)

// Join prints the elements of a list as fmt.Sprint does, with a separator between them.
func Join[T any](list []T, separator string) string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = fmt.Sprint(x)
	}
	return strings.Join(out, separator)
}
