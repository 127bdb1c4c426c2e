//go:build !race

package tundev

const raceOn = false
