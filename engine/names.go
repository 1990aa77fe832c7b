package engine

import (
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"

	"berth/fail"
)

var nameForm = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// checkName returns the name without its slash, or why it cannot be one.
func checkName(name string) (string, error) {
	bare := strings.TrimPrefix(name, "/")
	if !nameForm.MatchString(bare) {
		return "", fail.New(fail.Invalid, "Invalid container name (%s), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed", name)
	}
	return bare, nil
}

// madeUpName is an adjective and the name of someone who moved ships, maps, machines
// or mathematics; attempts beyond the first few get a number.
func madeUpName(attempt int) string {
	name := adjectives[rand.IntN(len(adjectives))] + "_" + surnames[rand.IntN(len(surnames))]
	if attempt > 3 {
		name += fmt.Sprint(rand.IntN(1000))
	}
	return name
}

var adjectives = strings.Fields(`
able agile airy alert ample apt artful astute avid balmy beaming blithe bold bonny brave breezy bright brisk
calm candid careful cheery chipper civil clear clever cosy crisp curious dapper daring deft dewy eager earnest
easy fair famous fearless festive fleet fluent fond frank fresh frugal gallant game gentle genial glad golden
graceful grand hale handy hardy hearty honest hopeful humble jaunty jolly jovial keen kind lively loyal lucid
lucky mellow merry mighty mild mindful modest neat nimble noble patient placid plucky polite prompt proud quick
quiet ready robust rosy sage sailing salty serene sharp shrewd silent sincere snug solid spry stable staunch
steady sturdy subtle sunny supple swift tactful tidal tidy trusty upbeat valiant vivid warm wary watchful wise
witty worthy zealous zesty`)

var surnames = strings.Fields(`
abel adler agnesi aiken airy alhazen amundsen anning appert archimedes arago babbage baffin banks banneker barents
barnard bassi beaufort bell bellingshausen bering bernoulli bessel biot black blackwell bligh boole borg bougainville
bowditch boyle brahe brunel burnell byron cabot cabral cannon cantor carson cartier cavendish celsius chandra
chang chebyshev clairaut clark coelho columba cook copernicus cori coriolis coulomb curie dalton dampier darwin
davy descartes diaz dijkstra dirac drake earhart eames easley eckert edison einstein ekman elion engelbart erdos
erikson euclid euler faraday fermat fermi fibonacci fisk fitzroy flamsteed fleming flinders foucault fourier
franklin fresnel frobisher fulton galileo galois galvani gama gauss germain gilbert goddard godel goodall gould
hadley haldane halley hamilton harrison harvey heaviside henry herschel hertz hilbert hipparchus hodgkin hooke
hopper hubble hudson humboldt huygens hypatia jemison jenner johnson joliot joule kelvin kepler khayyam knuth
kovalevsky kuhn lagrange lamarr lamport laplace lavoisier leavitt leibniz lewis linnaeus liskov lister lovelace
lovell lyell mach magellan marconi maskelyne maury maxwell mayer mccarthy mclean meitner mendel mercator messier
mirzakhani mitchell moore morse munk nansen napier nash neumann newton nightingale nobel noether ohm oersted
pappus parry pascal pasteur pauli payne peary perlman planck poincare polo pythagoras raleigh raman ramanujan
ride riemann ritchie roentgen ross rubin rutherford sagan scott shackleton shannon slocum snell somerville stokes
swan tasman tesla thales torricelli turing vespucci volta wallis watt wegener weddell wiles wright wu yalow`)
