//! Words of the builtin corpus, in named pools. An entry's fields are separated by `/`, and it may itself be a template
//! (see [`super::grammar`]).

/// Entries of a pool; each is as likely as the others.
pub type Pool = &'static [&'static str];

/// The pool of this name.
///
/// # Panics
/// When there is none: templates are part of the program.
pub fn pool(name: &str) -> Pool {
    let found = POOLS.iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("the lexicon has no pool named {name:?}")).1
}

#[rustfmt::skip]
const POOLS: &[(&str, Pool)] = &[
    // People: name/kind. The pronouns are added when a story is cast.
    ("hero girl", &[
        "Mia/girl", "Anna/girl", "Lily/girl", "Rosa/girl", "Ella/girl", "Nora/girl", "Sara/girl", "Ivy/girl", "Clara/girl",
        "Emma/girl", "Lucy/girl", "Zoe/girl", "Ruth/girl", "Maya/girl", "Hazel/rabbit", "Willow/deer", "Poppy/mouse",
        "Olive/owl", "Daisy/duck", "Penny/hen", "Luna/cat", "Bella/bear", "Tilly/squirrel", "Juno/fox",
    ]),
    ("hero boy", &[
        "Tom/boy", "Ben/boy", "Max/boy", "Sam/boy", "Leo/boy", "Jack/boy", "Noah/boy", "Finn/boy", "Oscar/boy", "Henry/boy",
        "Will/boy", "Theo/boy", "Adam/boy", "Eli/boy", "Pip/mouse", "Bruno/bear", "Felix/fox", "Otto/otter", "Hugo/hedgehog",
        "Rusty/dog", "Milo/cat", "Toby/turtle", "Barney/badger", "Jasper/rabbit",
    ]),
    ("elder girl", &[
        "Grandma Rose/grandmother", "Grandma May/grandmother", "Aunt Ada/aunt", "Aunt June/aunt", "old Mrs Brown/neighbor",
        "old Mrs Lind/neighbor", "Nana/grandmother", "Aunt Vera/aunt",
    ]),
    ("elder boy", &[
        "Grandpa Joe/grandfather", "Grandpa Karl/grandfather", "Uncle Ned/uncle", "Uncle Paul/uncle", "old Mr Green/neighbor",
        "old Mr Hill/neighbor", "Papa Louis/grandfather", "Uncle Ray/uncle",
    ]),

    // Describing people.
    ("small", &["little", "small", "young", "little", "small"]),
    ("trait", &["kind", "curious", "brave", "quiet", "cheerful", "clever", "gentle", "careful", "busy", "friendly", "patient", "honest"]),
    ("happy", &["happy", "glad", "full of joy", "very happy", "pleased", "so happy that {h.he} danced"]),
    ("sad", &["sad", "very sad", "upset", "unhappy", "a little sad"]),
    ("scared", &["scared", "afraid", "frightened", "very scared", "a bit afraid"]),
    ("tired", &["tired", "sleepy", "worn out", "very tired"]),

    // Speaking. Each can stand before or after a name.
    ("said", &["said", "said", "said", "said", "said", "whispered", "murmured"]),
    ("asked", &["asked", "asked", "asked", "asked", "wanted to know"]),
    ("cried", &["cried", "shouted", "called", "said"]),
    ("softly", &["softly", "gently", "kindly", "quietly", "with a smile", "in a small voice"]),

    // Time and weather.
    ("one day", &[
        "One day", "One morning", "One sunny morning", "One afternoon", "One fine morning", "One spring day",
        "One summer day", "One autumn day", "Early one morning", "One warm afternoon", "One bright day", "One windy day",
    ]),
    ("next day", &["the next day", "the next morning", "the day after", "early the next day", "on the following day"]),
    ("later", &["after a while", "a little later", "soon", "before long", "after some time"]),
    ("at last", &["at last", "finally", "in the end", "at long last"]),
    ("days", &["two", "three", "four", "five", "six", "seven", "ten"]),
    ("sky", &[
        "The sun was [warm|bright|high] and the sky was [blue|clear].", "The air was [cool|fresh] and smelled of [grass|flowers|rain|apples].",
        "A soft wind moved the leaves.", "The birds were singing in the trees.", "Small white clouds sailed across the sky.",
        "The grass was [soft|high|full of flowers].", "It was so quiet that {h} could hear the bees.", "A butterfly flew by.", "The leaves whispered in the wind.",
        "Somewhere a dog was barking.", "The whole world seemed to be [awake|shining].",
    ]),

    // Places: with a preposition/without.
    ("place", &[
        "in the forest/the forest", "by the river/the river", "in the meadow/the meadow", "on the hill/the hill", "by the lake/the lake",
        "in the park/the park", "at the old mill/the old mill", "in the orchard/the orchard", "near the stone bridge/the stone bridge",
        "on the beach/the beach", "by the pond/the pond", "in the field behind the barn/the field behind the barn", "in the garden/the garden",
        "by the tall oak tree/the tall oak tree", "at the edge of the woods/the edge of the woods", "in the valley/the valley",
    ]),
    ("home", &[
        "in a small house by the sea", "in a little house at the edge of the forest", "in a quiet village", "on a farm near the river",
        "in a yellow house on a hill", "in a cottage with a green door", "near the old mill", "in a town with narrow streets", "by a wide blue lake",
        "in a valley between two mountains", "at the end of a long road", "under the roots of a big oak tree", "next to an apple orchard",
        "in a house with a red roof",
    ]),
    ("hiding", &[
        "under the bed/the bed", "behind the door/the door", "inside an old box/the old box", "under a pile of leaves/the pile of leaves",
        "behind a big stone/the big stone", "inside a hollow log/the hollow log", "under the bench/the bench", "in the tall grass/the tall grass",
        "behind the woodpile/the woodpile", "under the kitchen table/the kitchen table", "in an empty basket/the empty basket",
        "under a wide green leaf/the wide green leaf",
    ]),

    // Things.
    ("color", &["red", "blue", "green", "yellow", "white", "brown", "golden", "orange", "purple", "silver"]),
    ("toy", &[
        "{#color} kite", "{#color} ball", "wooden boat", "toy train", "{#color} drum", "little {#color} bell", "rag doll", "wooden horse",
        "{#color} balloon", "tin whistle", "{#color} hat", "{#color} scarf", "old music box", "{#color} umbrella", "small brass key", "picture book",
    ]),
    ("gift", &[
        "wooden whistle", "{#color} scarf", "jar of honey", "basket of berries", "small painted stone", "bunch of {#color} flowers", "woolen hat",
        "little clay cup", "warm blanket", "bird made of paper", "bracelet of {#color} beads", "cherry cake",
    ]),
    ("fruit", &["apple", "pear", "plum", "peach", "orange", "cherry", "nut", "berry", "carrot", "turnip"]),
    ("vegetable", &["carrot", "potato", "onion", "mushroom", "bean", "leek", "turnip", "tomato"]),
    ("food", &[
        "cake", "loaf of bread", "pie", "cheese sandwich", "bag of biscuits", "bun", "honey cake", "apple pie", "cherry pie", "plum cake", "nut cake",
        "pancake",
    ]),
    ("soup", &["carrot soup", "onion soup", "potato soup", "mushroom soup", "pumpkin soup", "bean soup", "chicken soup"]),
    ("tool", &["hammer", "saw", "ladder", "long rope", "box of nails", "big knife"]),
    ("treasure", &["shiny coin", "{#color} feather", "round white stone", "pretty shell", "old key", "glass bead", "silver button", "smooth {#color} pebble"]),
    ("flower", &["sunflower", "rose", "tulip", "pumpkin", "bean", "daisy", "pea", "cherry tree", "apple tree", "lily"]),
    ("broken", &["cup", "chair", "window", "lamp", "wagon", "clock", "fence", "basket", "vase", "sled", "teapot", "bowl"]),
    ("vehicle", &["raft", "wooden boat", "little sailing boat", "cart", "sled", "wagon", "rowing boat"]),
    ("stuff", &["wood", "paper", "old boxes", "sticks and string", "clay", "leaves and branches", "stones", "straw"]),
    ("count", &["two", "three", "four", "five", "six", "seven", "eight", "nine"]),

    // Animals that do not speak.
    ("baby", &["kitten", "puppy", "lamb", "duckling", "chick", "baby bird", "fawn", "baby rabbit", "baby owl", "gosling", "piglet", "foal"]),
    ("pet", &["cat", "dog", "goat", "donkey", "parrot", "pony", "goose", "hen"]),
    ("noise", &[
        "a loud bang/It was only the shutter, which the wind had pushed open", "a long, low howl/It was only the wind in the chimney",
        "a tap on the window/It was only a branch of the old apple tree", "a scratching sound/It was only a mouse looking for crumbs",
        "a strange whistle/It was only the kettle, which someone had left on the stove", "a soft thump/It was only the cat, who had jumped from the shelf",
        "a slow creak, creak, creak/It was only the garden gate", "a drip, drip, drip/It was only the rain, which fell into a bucket",
        "a rattle at the door/It was only a hedgehog with a nutshell",
    ]),

    // Verbs: base/past/ing.
    ("skill", &[
        "swim/swam/swimming", "whistle/whistled/whistling", "sing/sang/singing", "dance/danced/dancing", "read/read/reading", "ride a pony/rode a pony/riding a pony",
        "skate/skated/skating", "paint/painted/painting", "bake bread/baked bread/baking bread", "climb trees/climbed trees/climbing trees",
        "play the flute/played the flute/playing the flute", "row a boat/rowed a boat/rowing a boat", "tie a knot/tied a knot/tying a knot",
        "count to a hundred/counted to a hundred/counting to a hundred", "catch a ball/caught a ball/catching a ball", "knit/knitted/knitting",
        "write letters/wrote letters/writing letters", "jump rope/jumped rope/jumping rope",
    ]),
    ("game", &["hide and seek", "tag", "catch", "chess", "marbles", "a guessing game", "a game with stones", "pirates", "shop"]),
    ("chore", &[
        "sweep the floor/swept the floor", "wash the dishes/washed the dishes", "feed the hens/fed the hens", "water the plants/watered the plants",
        "carry the wood/carried the wood", "pick the beans/picked the beans", "fold the sheets/folded the sheets", "clean the windows/cleaned the windows",
        "peel the potatoes/peeled the potatoes", "rake the leaves/raked the leaves",
    ]),

    // Whole sentences that fit many stories.
    ("opening", &[
        "Once upon a time there was {a #small} {h.kind} named {h}, who lived {#home}.",
        "Once there was {a #trait} little {h.kind} named {h}. {^h.he} lived {#home}.",
        "{^h} was {a #trait} little {h.kind} who lived {#home}.",
        "There once lived {a #small} {h.kind} [named|called] {h}. [{^h.his} home was|{^h.he} lived] {#home}.",
        "{^#home} lived {a #small} {h.kind} whose name was {h}.",
        "A long time ago, {a #trait} {h.kind} named {h} lived {#home}.",
        "This is the story of {h}, {a #small} {h.kind} who lived {#home}.",
        "Everyone knew {h}. {^h.he} was {a #trait} little {h.kind}, and {h.he} lived {#home}.",
    ]),
    ("meet f", &[
        "{^h.his} best friend was {a #trait} {f.kind} named {f}.", "{^h.he} had a good friend, {a #small} {f.kind} named {f}.",
        "Next door lived {f}, {a #trait} little {f.kind}.", "Almost every day {h.he} played with {f}, {a #small} {f.kind} who lived nearby.",
        "{^h.his} friend {f}, {a #trait} {f.kind}, lived [just across the road|not far away|behind the hill].",
    ]),
    ("thanks", &[
        "\"Thank you,\" said {h}. \"You are a true friend.\"", "\"Thank you so much!\" said {h}, and {h.he} [hugged {f}|gave {f} a big hug].",
        "\"I could not have done it without you,\" said {h}.", "{^h} smiled and said, \"Thank you, {f}.\"",
        "\"How can I ever thank you?\" asked {h}. \"You already did,\" said {f}.",
    ]),
    ("end f", &[
        "From that day on, {h} and {f} were the best of friends.", "{^h} and {f} walked home together, and they laughed all the way.",
        "That night {h} fell asleep with a smile.", "After that, {h} and {f} did everything together.",
        "And when the stars came out, {h} and {f} were still [talking|laughing|singing].", "It was the best day that {h} could remember.",
        "\"[Shall we do this again tomorrow|Same time tomorrow|Will you come again tomorrow]?\" asked {f}. \"[Yes|Of course|Always]!\" said {h}.",
        "Then they went home, because it was time for supper.", "And they never forgot that day.",
    ]),
    ("end e", &[
        "{^e} was very proud of {h}.", "{^e} laughed and gave {h} a big hug.", "That night {h} slept very well.",
        "Then {e} made a pot of tea, and they [sat by the fire|talked until it was dark|told each other stories].",
        "\"[Well done|You did well], {h},\" said {e}, and {h} was the happiest {h.kind} in the world.",
        "{^h} never forgot what {e} had told {h.him}.", "And from that day on, {h} visited {e} every [week|Sunday|evening].",
    ]),
];
